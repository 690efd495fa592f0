#!/usr/bin/env bash
# A run on Cloud TPU VMs, asked for as a queued resource.
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
queued_resource.sh VERB --name=NAME --zone=ZONE [flags]

Verbs take the same flags, so a command line is used again with another verb:
  create   asks for the TPU; one that is there already is left alone
  run      waits until it is there, copies the checkout to every host, installs
           it and starts the run, which goes on when you log out
  watch    state and last lines of the log until the run ends
  resume   after a preemption: asks again, waits and runs; hosts that are
           running are left alone, so it can be repeated
  stop     ends the run on every host, after a checkpoint
  delete   gives the TPU back

  --name=NAME              of the queued resource and of its TPU
  --zone=ZONE              such as us-east5-b
  --topology=v5e:4x4       or v5p:2x2x4, v6e:16x16, v6e-256 ...
  --config=FILE[:ARG]      relative to the checkout
  --config.FIELD=VALUE     as in python -m jaxreward.main
  --workdir=gs://BUCKET/X  a bucket: hosts that are taken away keep nothing, and
                           several share it; or a folder that all mount
  --spot | --reserved      which capacity; on demand if neither
  --project=PROJECT        gcloud's own setting if absent
  --runtime-version=V      the generation's own if absent
  --valid-until=6h         the request leaves the queue after this time
  --service-account=EMAIL  the account that the TPU VMs act as
  --network=N --subnetwork=N
  --include=FILE,...       further files of the checkout, such as my_rewards.py
  --poll=SECONDS           between two looks, 30
  --auto-resume            with watch: resumes whenever the TPU was taken away
  --once                   with watch: one look
  --dry-run                prints the commands, runs nothing
  --state=STATE            with --dry-run: the state to suppose
END
}

readonly RUNTIMES=(
  v5e=v2-alpha-tpuv5-lite v5p=v2-alpha-tpuv5 v6e=v2-alpha-tpuv6e
)
readonly WORKER='bash jaxreward/tpu_scripts/worker.sh'

queued() {  # VERB WORD...: sets COMMAND
  COMMAND=(gcloud compute tpus queued-resources "$1" "${FLAGS[name]}")
  COMMAND+=("${PLACE[@]}" "${@:2}")
}

tpu_vm() {  # ssh|scp WORD...
  execute gcloud compute tpus tpu-vm "$@" "${PLACE[@]}"
}

on_workers() {  # WORKER COMMAND
  tpu_vm ssh "${FLAGS[name]}" --worker="$1" --command="$2"
}

state_of() {  # SUPPOSED: prints the state, ABSENT if there is none
  local errors out
  queued describe '--format=value(state.state)'
  if dry; then
    quote "${COMMAND[@]}" >&3
    echo "${FLAGS[state]-$1}"
    return
  fi
  errors=$(mktemp)
  if out=$("${COMMAND[@]}" 2>"$errors"); then
    echo "$out"
  elif grep --quiet --ignore-case 'not.found' "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    rm -f "$errors"
    die 1 "gcloud failed: $(quote "${COMMAND[@]}")"
  fi
  rm -f "$errors"
}

request() {
  local runtime entry flag
  for entry in "${RUNTIMES[@]}"; do
    [[ ${TOPOLOGY%%:*} != "${entry%%=*}" ]] || runtime=${entry#*=}
  done
  queued create --node-id="${FLAGS[name]}" \
    --accelerator-type="$ACCELERATOR" \
    --runtime-version="${FLAGS[runtime-version]-$runtime}"
  for flag in spot reserved; do
    [[ -z ${FLAGS[$flag]-} ]] || COMMAND+=("--$flag")
  done
  for flag in service-account network subnetwork; do
    [[ -z ${FLAGS[$flag]-} ]] || COMMAND+=("--$flag=${FLAGS[$flag]}")
  done
  [[ -z ${FLAGS[valid-until]-} ]] \
    || COMMAND+=("--valid-until-duration=${FLAGS[valid-until]}")
  execute "${COMMAND[@]}"
}

release() {
  queued delete --force --quiet
  execute "${COMMAND[@]}"
}

wait_until_active() {
  local state
  if dry; then
    note "every $POLL s until it answers ACTIVE:"
    FLAGS[state]=ACTIVE
  fi
  while true; do
    state=$(state_of ACTIVE)
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED | ABSENT)
        die 1 "${FLAGS[name]} is $state, there is no TPU to run on;" \
          "the verb resume asks for another"
        ;;
    esac
    note "${FLAGS[name]}: $state"
    sleep "$POLL"
  done
}

start() {
  local archive=${TMPDIR:-/tmp}/jaxreward-${FLAGS[name]}.tar.gz install
  # Hosts that hold the lock are running, and keep the files they run from.
  install='mkdir -p jaxreward && tar -xzf jaxreward.tar.gz -C jaxreward'
  install+=" && $WORKER install"
  pack "$archive"
  tpu_vm scp "$archive" "${FLAGS[name]}:jaxreward.tar.gz" --worker=all
  on_workers all \
    "flock -n -E 0 jaxreward.lock bash -c $(quote "$install")"
  on_workers all "$WORKER start $(quote "${MAIN[@]}")"
}

create() {
  local state
  state=$(state_of ABSENT)
  [[ $state == ABSENT ]] || { note "${FLAGS[name]} is $state"; return; }
  request
}

run() {
  wait_until_active
  start
}

resume() {
  local state
  state=$(state_of SUSPENDED)
  case $state in
    ABSENT) request ;;
    FAILED | SUSPENDED)
      release
      request
      ;;
  esac
  [[ $state == ACTIVE ]] || wait_until_active
  start
}

taken_away() {  # STATE
  [[ -n ${FLAGS[auto-resume]-} ]] \
    || die 1 "${FLAGS[name]} is $1; the verb resume goes on from the last" \
      "checkpoint"
  note "${FLAGS[name]} is $1: resuming"
  resume
}

watch() {
  local status silent=0
  ! dry || note "every $POLL s until the run ends:"
  while true; do
    status=$(state_of ACTIVE)
    if [[ $status == ACTIVE ]]; then
      # A TPU that is being taken away stays ACTIVE for a while.
      if status=$(on_workers 0 "$WORKER status"); then
        silent=0
      elif ((++silent == 3)); then
        die 1 "${FLAGS[name]}: worker 0 has not answered three times"
      fi
    fi
    ! dry || return 0
    printf '%s\n' "$status"
    [[ -z ${FLAGS[once]-} ]] || return 0
    case $status in
      done*) return ;;
      failed*) die 1 "${FLAGS[name]}: the run ${status%%$'\n'*}" ;;
      FAILED | SUSPENDED | ABSENT | stopped*) taken_away "${status%%$'\n'*}" ;;
    esac
    sleep "$POLL"
  done
}

check() {
  need_name
  need_zone
  need_number poll
  [[ -z ${FLAGS[spot]-} || -z ${FLAGS[reserved]-} ]] \
    || fail "--spot and --reserved exclude each other"
  case $VERB${FLAGS[auto-resume]+-again} in
    create)  # whatever is given is checked before anything costs money
      need_topology
      [[ -z ${FLAGS[workdir]-}${FLAGS[config]-} ]] \
        || need_main_flags "$HOSTS" "$HOSTS hosts of $TOPOLOGY"
      ;;
    run | resume | *-again)
      need_topology
      need_main_flags "$HOSTS" "$HOSTS hosts of $TOPOLOGY"
      ;;
  esac
  PLACE=(--zone="${FLAGS[zone]}")
  [[ -z ${FLAGS[project]-} ]] || PLACE+=(--project="${FLAGS[project]}")
  POLL=${FLAGS[poll]-30}
}

read_command_line "create run watch resume stop delete" \
  "name zone topology project runtime-version valid-until service-account
network subnetwork include poll state" \
  "spot reserved auto-resume once" "$@"
check
case $VERB in
  stop) on_workers all "$WORKER stop" ;;
  delete) release ;;
  *) "$VERB" ;;
esac
