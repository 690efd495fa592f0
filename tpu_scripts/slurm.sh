#!/usr/bin/env bash
# A run on the GPUs of a SLURM cluster, one process per GPU.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
slurm.sh VERB --name=NAME [flags]

Verbs take the same flags:
  run      submits the run; never two of one name at a time
  watch    state and last lines of the log until the run ends
  resume   submits it again, unless it is pending or running
  delete   cancels it

  --name=NAME              of the job
  --nodes=N                1
  --gpus=N                 of every node, 8
  --config=FILE[:ARG]      relative to the checkout
  --config.FIELD=VALUE     as in python -m jaxreward.main
  --workdir=DIR            on a file system that all nodes share, or
                           gs://BUCKET/X with the extra gcs installed
  --python=FILE            that all nodes can run; .venv/bin/python
  --time=1-00:00:00        limit of one turn; when it is over the run saves and
                           queues again
  --grace=SECONDS          before the limit, to save in; 180
  --partition=P --account=A --qos=Q --constraint=C --cpus=N (per process)
  --logs=DIR               slurm_logs
  --poll=SECONDS           between two looks, 30
  --once                   with watch: one look
  --dry-run                prints the commands, runs nothing
  --state=STATE            with resume --dry-run: ABSENT or RUNNING
END
}

run() {
  local flag job
  job=(sbatch --parsable --job-name="${FLAGS[name]}" --nodes="$NODES"
    --ntasks-per-node=1 --gpus-per-node="${FLAGS[gpus]-8}"
    --dependency=singleton --requeue --open-mode=append
    --signal="B:USR1@${FLAGS[grace]-180}" --output="$LOG" --chdir="$ROOT")
  for flag in time partition account qos constraint; do
    [[ -z ${FLAGS[$flag]-} ]] || job+=("--$flag=${FLAGS[$flag]}")
  done
  [[ -z ${FLAGS[cpus]-} ]] || job+=("--cpus-per-task=${FLAGS[cpus]}")
  execute mkdir -p "$(dirname "$LOG")"
  execute "${job[@]}" "$ROOT/tpu_scripts/slurm_job.sh" "$PYTHON" "${MAIN[@]}"
}

query() {  # SUPPOSED COMMAND...
  if dry; then
    quote "${@:2}" >&3
    echo "${FLAGS[state]-$1}"
  else
    "${@:2}" || die 1 "$2 failed: $(quote "${@:2}")"
  fi
}

state_of() {
  local state
  state=$(query ABSENT squeue "${JOBS[@]}" --noheader --format=%T)
  state=${state%%$'\n'*}
  echo "${state:-ABSENT}"
}

resume() {
  local state
  state=$(state_of)
  [[ $state == ABSENT ]] || { note "${FLAGS[name]} is $state"; return; }
  run
}

delete() {
  execute scancel "${JOBS[@]}"
}

watch() {
  local state
  ! dry || note "every $POLL s until the job has left the queue:"
  while true; do
    state=$(state_of)
    [[ $state != ABSENT ]] || break
    note "${FLAGS[name]}: $state"
    [[ ! -f $LOG ]] || tail -n 3 "$LOG"
    [[ -z ${FLAGS[once]-} ]] || return 0
    sleep "$POLL"
  done
  state=$(query COMPLETED sacct "${JOBS[@]}" --starttime=now-7days \
    --allocations --noheader --parsable2 --format=State)
  state=${state##*$'\n'}
  note "${FLAGS[name]}: ${state:-no such job}"
  [[ $state == COMPLETED ]] || die 1 "${FLAGS[name]} ended as" \
    "${state:-no such job}; its log is $LOG"
}

check() {
  local workdir i
  need_name
  need_number nodes gpus grace cpus poll
  NODES=${FLAGS[nodes]-1} POLL=${FLAGS[poll]-30}
  LOG=${FLAGS[logs]-slurm_logs}
  [[ $LOG == /* ]] || LOG=$PWD/$LOG
  LOG+=/${FLAGS[name]}.log
  JOBS=(--user="${USER:-$(id -un)}" --name="${FLAGS[name]}")
  [[ $VERB == run || $VERB == resume ]] || return 0
  need_main_flags 1 "nodes"
  find_each_other "$NODES"
  workdir=${FLAGS[workdir]}
  if ((NODES > 1)) && [[ $workdir == /tmp/* || $workdir == /dev/shm/* ]]; then
    fail "--workdir=$workdir: $NODES nodes must share it, and /tmp is each" \
      "node's own"
  fi
  [[ $workdir == /* || $workdir == *:* ]] || workdir=$PWD/$workdir
  for i in "${!MAIN[@]}"; do
    [[ ${MAIN[i]} != --workdir=* ]] || MAIN[i]=--workdir=$workdir
  done
  PYTHON=${FLAGS[python]-$ROOT/.venv/bin/python}
  [[ -x $PYTHON ]] || fail "--python=$PYTHON: no such program; make the" \
    "environment with: python3 -m venv .venv && .venv/bin/pip install" \
    "--editable '.[cuda]'"
}

read_command_line "run watch resume delete" \
  "name nodes gpus python time grace partition account qos constraint cpus logs
poll state" "once" "$@"
check
"$VERB"
