#!/usr/bin/env bash
# What runs on every host of a TPU; queued_resource.sh calls it over ssh.
# It keeps jaxreward.{lock,log,status,pid} and the environment in $HOME.
set -euo pipefail

readonly HERE=${JAXREWARD_HOME:-$HOME}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT PYTHON=$HERE/jaxreward-env/bin/python
readonly LOCK=$HERE/jaxreward.lock LOG=$HERE/jaxreward.log
readonly STATUS=$HERE/jaxreward.status PID=$HERE/jaxreward.pid
readonly RESTARTS=${JAXREWARD_RESTARTS:-5} PAUSE=${JAXREWARD_PAUSE:-20}

usage() {
  cat <<'END'
worker.sh install          environment with the TPU build of JAX, made once
worker.sh start FLAG...    starts python -m jaxreward.main, unless it runs
worker.sh status           running, done, stopped or failed; end of the log
worker.sh stop             asks the run to save and end
worker.sh VERB --dry-run   prints the commands of install and start

A run that crashes, as all do when one host is lost, is started again, at most
$JAXREWARD_RESTARTS (5) times; one that was stopped or that names a mistake in
its flags is not.
END
}

execute() {
  if [[ -n $DRY ]]; then
    printf '%s\n' "${*@Q}"
  else
    "$@" || { echo "error: $(hostname): $1 failed: $*" >&2; exit 1; }
  fi
}

install() {  # the images bring Python 3.10: uv brings the one that is needed
  export PIP_BREAK_SYSTEM_PACKAGES=1
  execute python3 -m pip install --user --quiet uv
  execute python3 -m uv venv --quiet --allow-existing --python=3.11 \
    "$HERE/jaxreward-env"
  execute python3 -m uv pip install --quiet --python="$PYTHON" \
    --editable "${ROOT}[tpu,gcs]"
}

start() {
  if [[ -n $DRY ]]; then
    execute "$PYTHON" -m jaxreward.main "$@"
    return
  fi
  exec 9>>"$LOCK"  # the loop inherits it: held as long as anything runs
  if ! flock --nonblock 9; then
    echo "$(hostname): already running"
    return
  fi
  echo running >"$STATUS"
  nohup setsid bash "${BASH_SOURCE[0]}" loop "$@" </dev/null >>"$LOG" 2>&1 &
  echo "$(hostname): started, log in $LOG"
}

loop() {
  local attempt code status
  # The port that the firewall of new TPU networks opens; JAX's is another.
  export JAX_COORDINATOR_PORT=${JAX_COORDINATOR_PORT:-8476}
  cd "$ROOT"
  for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
    ((attempt == 0)) || sleep "$PAUSE"
    code=0
    "$PYTHON" -m jaxreward.main "$@" &
    echo $! >"$PID"
    wait $! || code=$?
    [[ $(<"$STATUS") == running ]] || return 0  # asked to stop
    case $code in
      0) status='done' && break ;;
      130 | 143) status=stopped && break ;;
      *) status="failed with exit code $code" ;;
    esac
    echo "worker.sh: exit code $code, attempt $((attempt + 1))"
    ((code != 2)) || break
  done
  echo "$status" >"$STATUS"
}

status() {
  local status=absent
  [[ ! -f $STATUS ]] || status=$(<"$STATUS")
  if [[ $status == running ]] && flock --nonblock "$LOCK" true; then
    status='stopped without a word'  # the host was started again
  fi
  echo "$status"
  [[ ! -f $LOG ]] || tail -n 3 "$LOG"
}

stop() {
  if flock --nonblock "$LOCK" true; then
    echo "$(hostname): not running"
  else
    echo stopped >"$STATUS"
    kill -TERM "$(<"$PID")" || true  # between two attempts
    echo "$(hostname): stopping"
  fi
}

VERB=${1:---help}
shift || true
DRY=
words=()
for word in "$@"; do
  case $word in
    --dry-run) DRY=yes ;;
    --help) VERB=--help ;;
    *) words+=("$word") ;;
  esac
done
case $VERB in
  install | start | loop | status | stop) "$VERB" "${words[@]}" ;;
  --help | -h) usage ;;
  *) echo "error: unknown verb \"$VERB\"; see worker.sh --help" >&2 && exit 2 ;;
esac
