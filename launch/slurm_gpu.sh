#!/usr/bin/env bash
# Runs diffpo_jax on GPU nodes of a Slurm cluster, one process per GPU.
#
#   launch/slurm_gpu.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   run     start, then follow.  If it is interrupted, the job is cancelled
#   start   submits the job and prints its number.  If the job is preempted, a node fails or its
#           HOURS are over, it starts again and the run continues from its last checkpoint
#   follow  prints the job's log until the job ends; the exit status is its outcome
#   stop    cancels the job
#
#   --dry-run prints the commands and runs none of them.
#
# Settings (environment variables) and their defaults:
#   WORKDIR   a directory that all nodes share (required).  gs://BUCKET/PATH is mounted on every
#             node with gcsfuse, which must be installed there
#   CONFIG    configs/sudoku.py      NAME      diffpo, name of the job
#   NODES     1                      GPUS      8, on each node
#   HOURS     24, time limit of each start of the job.  The run gets SIGTERM WARN (600) seconds
#             before the limit; a step and its validation must fit into that time
#   RESTARTS  20, how often a job that got SIGTERM asks to be started again
#   PARTITION, ACCOUNT: the cluster's defaults
#   PYTHON    .venv/bin/python of this directory; the nodes must be able to read it
#   LOG       log of the job, diffpo.log in this directory
#   POLL      30, seconds between two calls of squeue
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} NODES=${NODES:-1} GPUS=${GPUS:-8} HOURS=${HOURS:-24}
CONFIG=${CONFIG:-configs/sudoku.py} POLL=${POLL:-30} WARN=${WARN:-600}
RESTARTS=${RESTARTS:-20}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python} LOG=${LOG:-$ROOT/$NAME.log}
JOB=
LAG=20 # how many polls the accounting may lag behind the queue

# Prints the job's script, which Slurm runs on the first node at each start of the job.
script() {
  local run mount
  run="$(quoted "$PYTHON" -m diffpo_jax.main --config="$CONFIG" "${FLAGS[@]}")"
  run+="${OVERWRITE:+ \$OVERWRITE} --workdir"
  printf '%s\n' '#!/bin/bash' 'set -uo pipefail'
  # shellcheck disable=SC2016
  [[ ! $OVERWRITE ]] || printf '%s\n' 'export OVERWRITE=' \
    '((${SLURM_RESTART_COUNT:-0})) || OVERWRITE=--overwrite'
  if [[ $WORKDIR != gs://* ]]; then
    printf 'srun --kill-on-bad-exit=1 %s=%q\n' "$run" "$WORKDIR"
    again
    return
  fi
  # The first task of each node mounts the bucket, within the step, because Slurm kills processes
  # that outlive their step.  Each start has a directory of its own, because a mount whose gcsfuse
  # was killed cannot be used again.
  # shellcheck disable=SC2016
  mount='/tmp/diffpo-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}'
  printf 'export MOUNT=%s\n' "$mount"
  # File descriptor 9 keeps the mount in use: on the SIGTERM that stops the run, gcsfuse unmounts
  # a bucket that nothing uses.
  printf 'srun --kill-on-bad-exit=1 bash -c %q\n' "mkdir -p \$MOUNT
flock --close \$MOUNT.lock bash -c 'mountpoint -q \$MOUNT || gcsfuse ${MOUNT_OPTIONS[*]} \
$(quoted "$(bucket)") \$MOUNT' && exec 9<\$MOUNT && exec $run=\$MOUNT$(quoted "$(workdir_under '')")"
  again
}

# Prints the last lines of the job's script.  A job whose run was stopped by SIGTERM is queued
# again, unless Slurm is already ending it, as after scancel: then its state is not RUNNING.
again() {
  printf '%s\n' "status=\$?
if [[ \$status == $STOPPED || \$status == $TERMINATED ]] &&
  ((\${SLURM_RESTART_COUNT:-0} < $RESTARTS)) &&
  [[ \$(squeue --noheader --jobs=\"\$SLURM_JOB_ID\" --format=%T) == RUNNING ]]; then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \$status"
}

start() {
  local where=() jobs
  [[ ! ${PARTITION:-} ]] || where+=(--partition="$PARTITION")
  [[ ! ${ACCOUNT:-} ]] || where+=(--account="$ACCOUNT")
  jobs=(sbatch --parsable --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$GPUS"
    --gpus-per-node="$GPUS" --time="$HOURS:00:00" --signal="TERM@$WARN" --requeue
    --open-mode=append
    --chdir="$ROOT" --output="$LOG" "${where[@]}")
  if [[ $DRY_RUN ]]; then
    printf '%s <<"EOF"\n%s\nEOF\n' "$(quoted "${jobs[@]}")" "$(script)"
    JOB=JOB
    return
  fi
  JOB=$(script | "${jobs[@]}") || die 1 "Slurm did not accept the job (see above)."
  JOB=${JOB%%;*} # with several clusters sbatch prints NUMBER;CLUSTER
  say "job $JOB; its log is $LOG"
}

# Sets JOB to the number of the job with this name, unless this call submitted it.
find_job() {
  [[ ! $JOB ]] || return 0
  JOB=$(ask JOB squeue --noheader --name="$NAME" --user="$(id -un)" --format=%i) ||
    die 1 "squeue failed (see above)."
  [[ $JOB ]] || die 1 "there is no job named $NAME in the queue."
  [[ $JOB != *$'\n'* ]] ||
    die 2 "several jobs are named $NAME (${JOB//$'\n'/, }); give each its own NAME."
}

# Prints the job's state in the queue, or nothing if it has left the queue.  Lists all jobs of this
# user: squeue fails if asked for a job that it no longer knows, just as it does when it is busy.
queued() {
  ask '' squeue --noheader --user="$(id -un)" --format='%i %T' | sed -n "s/^$JOB //p"
}

# Prints the job's state in the accounting, which may lag behind.
accounted() {
  ask COMPLETED sacct --noheader --allocations --jobs="$JOB" --format=State%30 | tail -n 1 | xargs
}

follow() {
  local now before='' seen=1 fresh last='' polls=0
  find_job
  while true; do
    # If squeue fails (a busy controller), the job has not necessarily ended.
    now=$(queued) || now=${before:-unknown}
    [[ $now == "$before" || ! $now ]] || say "job $JOB is $now"
    before=$now
    if [[ -f $LOG && ! $DRY_RUN ]]; then
      # Print whole lines only, and continue there next time, although the log grows meanwhile.
      fresh=$(tail -n "+$seen" "$LOG" | wc -l)
      tail -n "+$seen" "$LOG" | head -n "$fresh"
      seen=$((seen + fresh))
    fi
    if [[ $now ]]; then
      polls=0
    else
      last=$(accounted) || last=
      case $last in
        '' | PENDING | RUNNING | COMPLETING | REQUEUED)
          ((++polls < LAG)) ||
            die 1 "job $JOB has left the queue, but sacct does not show how it ended: it shows" \
              "${last:-nothing}. See $LOG."
          ;;
        *) break ;;
      esac
    fi
    pause "$POLL"
  done
  case $last in
    COMPLETED) say "done; the results are in $WORKDIR" ;;
    *) die 1 "job $JOB ended as $last; see $LOG. The same command continues from $WORKDIR." ;;
  esac
}

stop() {
  find_job
  say "cancelling job $JOB"
  call scancel "$JOB" || die 1 "job $JOB could not be cancelled; try scancel $JOB."
}

finish() { # exit trap of `run`: cancels the job if the call was interrupted
  local status=$?
  trap - EXIT INT TERM HUP
  end_interruptible
  [[ $status != 130 && $status != 143 ]] || [[ ! $JOB ]] || (stop) || status=1
  exit "$status"
}

run() {
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  start
  follow
}

parse "$@"
need_program sbatch "Run this script on a login node of a Slurm cluster."
check_workdir() {
  need WORKDIR /shared/YOUR_DIRECTORY/runs/sudoku
  case $WORKDIR in
    gs://*) workdir_under . >/dev/null ;;
    /*) ;;
    *) die 2 "WORKDIR=$WORKDIR is neither an absolute path nor gs://BUCKET/PATH." ;;
  esac
}
dispatch check_workdir run start follow -- stop
