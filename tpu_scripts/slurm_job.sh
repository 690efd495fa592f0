#!/usr/bin/env bash
# The batch script of slurm.sh: slurm_job.sh PYTHON FLAG...
# One process for all GPUs of a node. USR1,
# sent some time before the limit, makes the run save and the job queue again.
set -euo pipefail

requeue=
# shellcheck disable=SC2329  # called by the trap
on_limit() {
  echo "slurm_job.sh: time is nearly over, saving"
  requeue=yes signalled=yes
  scancel --signal=TERM "$SLURM_JOB_ID"  # to the processes, not to this script
}
trap on_limit USR1

# Every process sees all GPUs of its node and takes the one of its number.
srun --kill-on-bad-exit=1 --gpu-bind=none "$1" -m jaxreward.main "${@:2}" &
step=$!
until [[ -n ${code-} ]]; do
  signalled=
  wait "$step" && code=0 || code=$?
  [[ -z $signalled ]] || unset code  # a signal ends `wait`, not the step
done
if [[ -n $requeue ]] && ((code != 0)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
