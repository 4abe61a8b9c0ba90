#!/usr/bin/env bash
# Runs diffpo_jax on GPU nodes of a Slurm cluster, a process for each GPU.
#
#   launch/slurm_gpu.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   run     start, follow.  The job is cancelled where this is interrupted
#   start   submits the job and prints its number.  It starts again when it is preempted, a node
#           fails or its HOURS are over, and the run goes on from its last checkpoint
#   follow  the job's log until the job ends, with its outcome as exit status
#   stop    cancels the job
#
#   --dry-run prints the commands and calls nothing.
#
# Settings, by environment:
#   WORKDIR   a directory that all nodes share (required).  gs://BUCKET/PATH is mounted on
#             every node by gcsfuse, which must be installed there
#   CONFIG    configs/sudoku.py      NAME      diffpo, of the job
#   NODES     1                      GPUS      8, on each node
#   HOURS     24, the limit of each start of the job; the run is told to stop WARN (600) seconds
#             before it, which a step and its validation must fit in
#   RESTARTS  20, how often a job that was told to stop asks to be started again
#   PARTITION, ACCOUNT: the cluster's defaults
#   PYTHON    .venv/bin/python of this directory; the nodes must see it
#   LOG       the job's log, diffpo.log in this directory
#   POLL      30 seconds between two looks at the queue
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} NODES=${NODES:-1} GPUS=${GPUS:-8} HOURS=${HOURS:-24}
CONFIG=${CONFIG:-configs/sudoku.py} POLL=${POLL:-30} WARN=${WARN:-600}
RESTARTS=${RESTARTS:-20}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python} LOG=${LOG:-$ROOT/$NAME.log}
JOB=
LAG=20 # how many looks the accounting may be behind the queue

# The job itself: what Slurm runs on the first node, again after each preemption.
script() {
  local run mount
  run="$(quoted "$PYTHON" -m diffpo_jax.main --config="$CONFIG" "${FLAGS[@]}") --workdir"
  printf '%s\n' '#!/bin/bash' 'set -uo pipefail'
  if [[ $WORKDIR != gs://* ]]; then
    printf 'srun --kill-on-bad-exit=1 %s=%q\n' "$run" "$WORKDIR"
    again
    return
  fi
  # Mounted by the first task of a node, within the step: Slurm ends what outlives its step.  A
  # directory of its own for each start: a mount whose gcsfuse was killed can only be left.
  # shellcheck disable=SC2016
  mount='/tmp/diffpo-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}'
  printf 'export MOUNT=%s\n' "$mount"
  # Held open by number 9: the SIGTERM that the run heeds makes gcsfuse unmount what nobody holds.
  printf 'srun --kill-on-bad-exit=1 bash -c %q\n' "mkdir -p \$MOUNT
flock --close \$MOUNT.lock bash -c 'mountpoint -q \$MOUNT || gcsfuse ${MOUNT_OPTIONS[*]} \
$(quoted "$(bucket)") \$MOUNT' && exec 9<\$MOUNT && exec $run=$(workdir_under "\$MOUNT")"
  again
}

# The job's last lines: what was told to stop goes on where there is room again.  Not where Slurm is
# ending the job already, as after scancel: then it is no longer running.
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
  JOB=$(script | "${jobs[@]}") || die 1 "Slurm took no job (see above)."
  JOB=${JOB%%;*} # with several clusters the cluster's name follows
  say "job $JOB; its log is $LOG"
}

# The number of the job with this name, where this is not the call that submitted it.
find_job() {
  [[ ! $JOB ]] || return 0
  JOB=$(ask JOB squeue --noheader --name="$NAME" --user="$(id -un)" --format=%i) ||
    die 1 "squeue failed (see above)."
  [[ $JOB ]] || die 1 "no job named $NAME is in the queue."
  [[ $JOB != *$'\n'* ]] ||
    die 2 "several jobs are named $NAME (${JOB//$'\n'/, }): choose a NAME for each."
}

# What the queue says of the job, nothing where it has left it.  All jobs of this user are listed:
# a queue that is asked for a job it has forgotten fails, as a busy one does.
queued() {
  ask '' squeue --noheader --user="$(id -un)" --format='%i %T' | sed -n "s/^$JOB //p"
}

# What the accounting says of it, which may be behind.
accounted() {
  ask COMPLETED sacct --noheader --allocations --jobs="$JOB" --format=State%30 | tail -n 1 | xargs
}

follow() {
  local now before='' seen=1 fresh last='' looks=0
  find_job
  while true; do
    # A squeue that fails (a busy controller) is not a job that ended.
    now=$(queued) || now=${before:-unknown}
    [[ $now == "$before" || ! $now ]] || say "job $JOB is $now"
    before=$now
    if [[ -f $LOG && ! $DRY_RUN ]]; then
      # A line at a time, however the log grows: what is shown next begins where this ended.
      fresh=$(tail -n "+$seen" "$LOG" | wc -l)
      tail -n "+$seen" "$LOG" | head -n "$fresh"
      seen=$((seen + fresh))
    fi
    if [[ $now ]]; then
      looks=0
    else
      last=$(accounted) || last=
      case $last in
        '' | PENDING | RUNNING | COMPLETING | REQUEUED)
          ((++looks < LAG)) ||
            die 1 "job $JOB has left the queue, and sacct does not say how: it says" \
              "${last:-nothing}. See $LOG."
          ;;
        *) break ;;
      esac
    fi
    pause "$POLL"
  done
  case $last in
    COMPLETED) say "done; everything is in $WORKDIR" ;;
    *) die 1 "job $JOB ended as $last; see $LOG. The same command goes on from $WORKDIR." ;;
  esac
}

stop() {
  find_job
  say "cancelling job $JOB"
  call scancel "$JOB" || die 1 "job $JOB could not be cancelled: scancel $JOB."
}

finish() { # an interrupted `run` leaves nothing running; one that ended has nothing to cancel
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
need_program sbatch "This script runs on a login node of a Slurm cluster."
check_workdir() {
  need WORKDIR /shared/YOUR_DIRECTORY/runs/sudoku
  case $WORKDIR in
    gs://*) workdir_under . >/dev/null ;;
    /*) ;;
    *) die 2 "WORKDIR=$WORKDIR is no absolute path, nor gs://BUCKET/PATH." ;;
  esac
}
dispatch check_workdir run start follow -- stop
