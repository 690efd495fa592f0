#!/usr/bin/env bash
# A run on GKE with XPK (pip install xpk).
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
gke_xpk.sh VERB --cluster=CLUSTER --name=NAME [flags]

Verbs take the same flags:
  create   makes the cluster, or gives it this many slices
  run      submits the run; XPK builds its image from the checkout
  watch    waits until the run ends
  resume   submits it again, unless it is queued, running or done
  delete   ends the run and removes it; the cluster stays
  delete-cluster

  --cluster=CLUSTER        the GKE cluster
  --name=NAME              of the run, XPK's workload
  --zone=ZONE              such as us-east5-b
  --topology=v5e:4x4       of one slice; or v5p:2x2x4, v6e:16x16, v6e-256 ...
  --slices=N               1
  --config=FILE[:ARG]      relative to the checkout
  --config.FIELD=VALUE     as in python -m jaxreward.main
  --workdir=gs://BUCKET/X  a bucket, or a folder that all pods mount: pods
                           keep nothing
  --spot | --reservation=R with create: which capacity; on demand if neither
  --project=PROJECT        gcloud's own setting if absent
  --image=IMAGE            an image with the package, its extra gcs and
                           /app/configs; without it python:3.11 gets the
                           checkout and installs it
  --include=FILE,...       further files of the checkout, such as my_rewards.py
  --restarts=N             of a run that ends with an error, 5
  --priority=medium        very-low, low, medium, high or very-high
  --once                   with watch: one look
  --dry-run                prints the commands, runs nothing
  --state=STATE            with resume --dry-run: ABSENT, RUNNING, DONE, FAILED
END
}

create() {
  local capacity=--on-demand
  [[ -z ${FLAGS[spot]-} ]] || capacity=--spot
  [[ -z ${FLAGS[reservation]-} ]] \
    || capacity=--reservation=${FLAGS[reservation]}
  execute xpk cluster create "${PLACE[@]}" --tpu-type="$ACCELERATOR" \
    --num-slices="${FLAGS[slices]-1}" "$capacity"
}

run() {
  local stage=${TMPDIR:-/tmp}/jaxreward-${FLAGS[name]} command image
  command="python -m jaxreward.main $(quote "${MAIN[@]}")"
  if [[ -n ${FLAGS[image]-} ]]; then
    image=(--docker-image="${FLAGS[image]}")
  else
    pack "$stage.tar.gz"
    execute mkdir -p "$stage"
    execute tar --extract --gzip --file="$stage.tar.gz" --directory="$stage"
    image=(--base-docker-image=python:3.11 --script-dir="$stage")
    command="'.[tpu,gcs]' && $command"
    command="pip install --quiet --editable $command"
  fi
  execute xpk workload create "${PLACE[@]}" --workload="${FLAGS[name]}" \
    --tpu-type="$ACCELERATOR" --num-slices="${FLAGS[slices]-1}" \
    --priority="${FLAGS[priority]-medium}" \
    --max-restarts="${FLAGS[restarts]-5}" --restart-on-user-code-failure \
    "${image[@]}" --command="$command"
}

state_of() {  # ABSENT, RUNNING (or queued), DONE or FAILED
  local out row
  local list=(xpk workload list "${PLACE[@]}")
  list+=("--filter-by-job=^${FLAGS[name]}\$")
  if dry; then
    quote "${list[@]}" >&3
    echo "${FLAGS[state]-ABSENT}"
    return
  fi
  out=$("${list[@]}") || die 1 "xpk failed: $(quote "${list[@]}")"
  row=$(grep "^${FLAGS[name]}[[:space:]]" <<<"$out" || true)
  case $row in
    '') echo ABSENT ;;
    *'finished successfully'*) echo DONE ;;
    *Finished*) echo FAILED ;;
    *) echo RUNNING ;;
  esac
}

delete() {
  execute xpk workload delete "${PLACE[@]}" --workload="${FLAGS[name]}" --force
}

resume() {
  local state
  state=$(state_of)
  case $state in
    ABSENT) run ;;
    FAILED)
      delete
      run
      ;;
    *) note "${FLAGS[name]} is $state" ;;
  esac
}

watch() {
  local code=0
  local list=(xpk workload list "${PLACE[@]}")
  if [[ -n ${FLAGS[once]-} ]]; then
    execute "${list[@]}" "--filter-by-job=^${FLAGS[name]}\$"
    return
  fi
  list+=(--wait-for-job-completion="${FLAGS[name]}")
  if dry; then
    execute "${list[@]}"
    return
  fi
  "${list[@]}" || code=$?
  case $code in
    0) ;;
    125) die 1 "${FLAGS[name]} ended with an error; the verb resume goes on" \
      "from the last checkpoint" ;;
    *) die 1 "xpk failed with exit code $code: $(quote "${list[@]}")" ;;
  esac
}

check() {
  need cluster my-cluster
  [[ -z ${FLAGS[zone]-} ]] || need_zone
  need_number slices restarts
  [[ -z ${FLAGS[spot]-} || -z ${FLAGS[reservation]-} ]] \
    || fail "--spot and --reservation exclude each other"
  [[ $VERB == create || $VERB == delete-cluster ]] || need_name
  case $VERB in
    create) need_topology ;;
    run | resume)
      need_topology
      need_main_flags 2 "pods of a run"
      ;;
  esac
  PLACE=(--cluster="${FLAGS[cluster]}")
  [[ -z ${FLAGS[zone]-} ]] || PLACE+=(--zone="${FLAGS[zone]}")
  [[ -z ${FLAGS[project]-} ]] || PLACE+=(--project="${FLAGS[project]}")
}

read_command_line "create run watch resume delete delete-cluster" \
  "cluster name zone topology slices reservation project image include restarts
priority state" "spot once" "$@"
check
case $VERB in
  delete-cluster) execute xpk cluster delete "${PLACE[@]}" ;;
  *) "$VERB" ;;
esac
