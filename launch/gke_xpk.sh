#!/usr/bin/env bash
# Runs diffpo_jax on TPU slices of a GKE cluster, by xpk.
#
#   launch/gke_xpk.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   up      makes the cluster and attaches the bucket of WORKDIR to it; where the bucket cannot
#           be attached, the cluster is deleted again
#   run     start, follow.  The workload of this call is deleted where it fails or is interrupted
#   start   submits the commit as a workload; GKE starts it again, up to RESTARTS times, when a
#           node is preempted, and the run goes on from its last checkpoint
#   follow  waits for the workload, with its outcome as exit status
#   stop    deletes the workload; the cluster stays, and is billed
#   down    deletes the cluster
#
#   --dry-run prints the commands and calls nothing.
#
# Settings, by environment:
#   PROJECT   Google Cloud project (required)
#   ZONE      where the cluster is (required), us-west4-a say
#   CLUSTER   its name (required)
#   WORKDIR   gs://BUCKET/PATH (required), on a bucket with a hierarchical namespace
#   CONFIG    configs/sudoku.py      NAME      diffpo, of the workload
#   TYPE      v5litepod-16           SLICES    1
#   SPOT      1, of `up`; 0 asks for nodes that are not preempted, and cost more
#   RESTARTS  20                     IMAGE     python:3.12, what the code is put on top of
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} TYPE=${TYPE:-v5litepod-16} SLICES=${SLICES:-1}
CONFIG=${CONFIG:-configs/sudoku.py} SPOT=${SPOT:-1} RESTARTS=${RESTARTS:-20}
IMAGE=${IMAGE:-python:3.12}
MOUNT=/bucket
REQUESTED= # set while there is a workload of ours

where() { WHERE=(--project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER"); }

up() {
  local tier=(--on-demand) options
  [[ $SPOT == 0 ]] || tier=(--spot)
  say "making the cluster $CLUSTER: some twenty minutes"
  call xpk cluster create "${WHERE[@]}" --tpu-type="$TYPE" --num-slices="$SLICES" "${tier[@]}" \
    --enable-gcsfuse-csi-driver ||
    die 1 "the cluster could not be made (see above). What there is of it is billed until" \
      "launch/$SCRIPT down."
  # The options of gcsfuse as a persistent volume takes them: no dashes, commas between.
  options=$(IFS=, && printf '%s' "${MOUNT_OPTIONS[*]#--}")
  call xpk storage attach "$(bucket)" "${WHERE[@]}" --type=gcsfuse --bucket="$(bucket)" \
    --mount-point="$MOUNT" --mount-options="$options" --readonly=false --auto-mount=false \
    --size=1 && return
  down
  die 1 "the bucket $(bucket) could not be attached (see above); the cluster is deleted again."
}

start() {
  local sources command status=0
  warn_of_changes
  # A clone, so that the image holds the commit and none of what lies around it.
  sources=$(ask /tmp/diffpo_jax mktemp -d)
  command="git config --global --add safe.directory '*' && python -m pip install -q -e '.[tpu]'"
  command+=" && exec python -m diffpo_jax.main --workdir=$(quoted "$(workdir_under "$MOUNT")")"
  command+=" $(quoted --config="$CONFIG" "${FLAGS[@]}")"
  if call git clone -q "file://$ROOT" "$sources"; then
    REQUESTED=1 # from here on, as an interrupted request may have come through
    # By itself xpk restarts what a signal ended, and nothing that ended with a status of its own.
    call xpk workload create "${WHERE[@]}" --workload="$NAME" --tpu-type="$TYPE" \
      --num-slices="$SLICES" --max-restarts="$RESTARTS" --restart-on-exit-codes="$STOPPED" \
      --storage="$(bucket)" --base-docker-image="$IMAGE" --script-dir="$sources" \
      --command="$command" || status=$?
  else
    status=1
  fi
  call rm -rf "$sources"
  [[ $status != 0 ]] || return 0
  REQUESTED= # one of this name may be another's
  die 1 "the workload $NAME could not be submitted (see above)."
}

follow() {
  local status=0
  interruptible call xpk workload list "${WHERE[@]}" --wait-for-job-completion="$NAME" || status=$?
  case $status in
    0) say "done; everything is in $WORKDIR" ;;
    125) die 125 "the workload $NAME failed: its log is under Kubernetes Engine, Workloads in" \
      "the console. What it saved is in $WORKDIR." ;;
    *) die "$status" "xpk stopped waiting for $NAME (see above)." ;;
  esac
}

stop() {
  say "deleting the workload $NAME"
  call xpk workload delete "${WHERE[@]}" --workload="$NAME" --force ||
    die 1 "the workload $NAME could not be deleted: try launch/$SCRIPT stop again."
}

down() {
  say "deleting the cluster $CLUSTER"
  call xpk cluster delete "${WHERE[@]}" --force ||
    die 1 "$CLUSTER could not be deleted and is billed: try launch/$SCRIPT down again."
}

finish() { # where `run` did not end well, nothing of it stays; what others started does
  local status=$?
  trap - EXIT INT TERM HUP
  end_interruptible
  [[ $status == 0 || ! $REQUESTED ]] || (stop) || status=1
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
need PROJECT YOUR_PROJECT
need ZONE us-west4-a
need CLUSTER YOUR_CLUSTER
need_program xpk "Install it: pip install xpk"
where
check_workdir() {
  need WORKDIR gs://YOUR_BUCKET/runs/sudoku
  [[ $WORKDIR == gs://* ]] ||
    die 2 "WORKDIR=$WORKDIR is no gs:// path; the cluster's nodes share no other disk."
  workdir_under . >/dev/null
}
dispatch check_workdir up run start follow -- stop down
