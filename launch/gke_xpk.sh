#!/usr/bin/env bash
# Runs diffpo_jax on TPU slices of a GKE cluster, with xpk.
#
#   launch/gke_xpk.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   up      creates the cluster and attaches the bucket of WORKDIR to it; if the bucket cannot be
#           attached, deletes the cluster again
#   run     start, then follow.  If it fails or is interrupted, the workload of this call is deleted
#   start   submits the commit as a workload.  If a node is preempted, GKE starts it again, up to
#           RESTARTS times, and the run continues from its last checkpoint
#   follow  waits for the workload; the exit status is its outcome
#   stop    deletes the workload; the cluster stays and is billed
#   down    deletes the cluster
#
#   --dry-run prints the commands and runs none of them.
#
# Settings (environment variables) and their defaults:
#   PROJECT   Google Cloud project (required)
#   ZONE      zone of the cluster (required), for example us-west4-a
#   CLUSTER   name of the cluster (required)
#   WORKDIR   gs://BUCKET/PATH (required), on a bucket with a hierarchical namespace
#   CONFIG    configs/sudoku.py      NAME      diffpo, name of the workload
#   TYPE      v5litepod-16           SLICES    1
#   SPOT      1 (spot nodes, for `up`); 0 asks for nodes that are not preempted and cost more
#   RESTARTS  20                     IMAGE     python:3.12, base image of the workload
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} TYPE=${TYPE:-v5litepod-16} SLICES=${SLICES:-1}
CONFIG=${CONFIG:-configs/sudoku.py} SPOT=${SPOT:-1} RESTARTS=${RESTARTS:-20}
IMAGE=${IMAGE:-python:3.12}
MOUNT=/bucket
REQUESTED= # set while a workload of this call may exist

where() { WHERE=(--project="$PROJECT" --zone="$ZONE" --cluster="$CLUSTER"); }

up() {
  local tier=(--on-demand) options
  [[ $SPOT == 0 ]] || tier=(--spot)
  say "creating the cluster $CLUSTER; this takes about twenty minutes"
  call xpk cluster create "${WHERE[@]}" --tpu-type="$TYPE" --num-slices="$SLICES" "${tier[@]}" \
    --enable-gcsfuse-csi-driver ||
    die 1 "the cluster could not be created (see above). Parts of it may exist and are billed" \
      "until launch/$SCRIPT down."
  # A persistent volume takes gcsfuse's options without dashes, separated by commas.
  options=$(IFS=, && printf '%s' "${MOUNT_OPTIONS[*]#--}")
  call xpk storage attach "$(bucket)" "${WHERE[@]}" --type=gcsfuse --bucket="$(bucket)" \
    --mount-point="$MOUNT" --mount-options="$options" --readonly=false --auto-mount=false \
    --size=1 && return
  down
  die 1 "the bucket $(bucket) could not be attached (see above), so the cluster was deleted."
}

start() {
  local sources command status=0
  warn_of_changes
  # A clone, so that the image contains the commit and no other files of the working tree.
  sources=$(ask /tmp/diffpo_jax mktemp -d)
  command="git config --global --add safe.directory '*' && python -m pip install -q -e '.[tpu]'"
  command+=" && exec python -m diffpo_jax.main --workdir=$(quoted "$(workdir_under "$MOUNT")")"
  command+=" $(quoted --config="$CONFIG" "${FLAGS[@]}")"
  if call git clone -q "file://$ROOT" "$sources"; then
    REQUESTED=1 # set before the request, which may succeed although it is interrupted
    # By default xpk restarts workloads that a signal ended, not those that exited with a status.
    call xpk workload create "${WHERE[@]}" --workload="$NAME" --tpu-type="$TYPE" \
      --num-slices="$SLICES" --max-restarts="$RESTARTS" --restart-on-exit-codes="$STOPPED" \
      --storage="$(bucket)" --base-docker-image="$IMAGE" --script-dir="$sources" \
      --command="$command" || status=$?
  else
    status=1
  fi
  call rm -rf "$sources"
  [[ $status != 0 ]] || return 0
  REQUESTED= # a workload of this name may belong to somebody else
  die 1 "the workload $NAME could not be submitted (see above)."
}

follow() {
  local status=0
  interruptible call xpk workload list "${WHERE[@]}" --wait-for-job-completion="$NAME" || status=$?
  case $status in
    0) say "done; the results are in $WORKDIR" ;;
    125) die 125 "the workload $NAME failed; its log is in the console under Kubernetes Engine," \
      "Workloads. Its checkpoints are in $WORKDIR." ;;
    *) die "$status" "xpk stopped waiting for $NAME (see above)." ;;
  esac
}

stop() {
  say "deleting the workload $NAME"
  call xpk workload delete "${WHERE[@]}" --workload="$NAME" --force ||
    die 1 "the workload $NAME could not be deleted; try launch/$SCRIPT stop again."
}

down() {
  say "deleting the cluster $CLUSTER"
  call xpk cluster delete "${WHERE[@]}" --force ||
    die 1 "$CLUSTER could not be deleted and is billed; try launch/$SCRIPT down again."
}

finish() { # exit trap of `run`: deletes its workload if it failed, and nobody else's
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
    die 2 "WORKDIR=$WORKDIR is not a gs:// path; the nodes of the cluster share no other disk."
  workdir_under . >/dev/null
  [[ ! $OVERWRITE ]] || die 2 "--overwrite would remove the run again at every restart of the" \
    "workload; give another WORKDIR, or remove the old run first."
}
dispatch check_workdir up run start follow -- stop down
