#!/usr/bin/env bash
# Runs diffpo_jax on a Cloud TPU slice of any number of hosts, by queued resources.
#
#   launch/tpu_pod.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   run     up, start, follow.  A slice that is preempted is deleted and requested again, and
#           the run goes on from its last checkpoint; so it does where its hosts were told to stop
#           it and stay.  The slice is deleted at the end, however that comes, Ctrl-C and failures
#           included.
#   up      requests the slice, waits for it, installs the code's commit on all workers
#   start   starts the run on all workers; it outlives the connection
#   follow  the log of worker 0 until the run ends, with the run's exit status
#   stop    ends the run on all workers when its step is saved; the slice stays, and is billed
#   down    deletes the slice
#   state   what the request's state is
#
#   --dry-run prints the commands and calls nothing.
#
# Settings, by environment:
#   PROJECT   Google Cloud project (required)
#   ZONE      where the slice is (required), us-west4-a say
#   WORKDIR   gs://BUCKET/PATH (required), on a bucket with a hierarchical namespace
#   CONFIG    configs/sudoku.py      NAME      diffpo, of request and slice
#   TYPE      v5litepod-16           RUNTIME   v2-alpha-tpuv5-lite, the image for TYPE
#   SPOT      1; 0 asks for a slice that is not preempted, and costs more
#   RESTARTS  20, how often `run` asks for another slice
#   WAIT      86400 seconds for a slice to be granted; POLL: 30 seconds between two looks
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} TYPE=${TYPE:-v5litepod-16} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
CONFIG=${CONFIG:-configs/sudoku.py} SPOT=${SPOT:-1} RESTARTS=${RESTARTS:-20}
WAIT=${WAIT:-86400} POLL=${POLL:-30}
REQUESTED= # set while there is a request of ours
PREEMPTED=76 # the slice is gone; no status of the run's own
# Without them a connection to a machine that is gone hangs for hours.
ALIVE=(-o ServerAliveInterval=30 -o ServerAliveCountMax=4)

where() { WHERE=(--project="$PROJECT" --zone="$ZONE"); }

ssh_to() { # WORKER COMMAND
  call gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker="$1" --command="$2" \
    -- "${ALIVE[@]}"
}

state() {
  ask ACTIVE gcloud compute tpus queued-resources describe "$NAME" "${WHERE[@]}" \
    --format='value(state.state)'
}

request() {
  local tier=()
  [[ $SPOT == 0 ]] || tier=(--spot)
  say "requesting $TYPE in $ZONE as $NAME"
  REQUESTED=1 # from here on, as an interrupted request may have come through
  call gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${tier[@]}" && return
  REQUESTED=
  die 1 "the request for $TYPE was refused (see above): check quota, ZONE, TYPE and RUNTIME."
}

wait_until_active() {
  local now='' before='' deadline=$((SECONDS + WAIT))
  while true; do
    now=$(state) || now="unknown (gcloud failed)"
    [[ $now == "$before" ]] || say "the request is $now"
    before=$now
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) return "$PREEMPTED" ;;
    esac
    ((SECONDS < deadline)) ||
      die 1 "no slice within WAIT=$WAIT seconds; the request is $now. Another ZONE or TYPE?"
    pause "$POLL"
  done
}

# Python of its own (the image's is too old for JAX), the commit, and the bucket as a directory.
install() {
  local bundle steps sent=0
  warn_of_changes
  say "installing on all workers"
  bundle=$(ask /tmp/diffpo.bundle mktemp)
  call git -C "$ROOT" bundle create --quiet "$bundle" HEAD &&
    call gcloud compute tpus tpu-vm scp "$bundle" "$NAME:diffpo.bundle" "${WHERE[@]}" \
      --worker=all || sent=$?
  call rm -f "$bundle"
  [[ $sent == 0 ]] || return 1
  steps="set -e
rm -rf diffpo_jax && git clone -q diffpo.bundle diffpo_jax
if ! command -v gcsfuse >/dev/null; then
  key=/usr/share/keyrings/cloud.google.asc
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee \$key >/dev/null
  echo \"deb [signed-by=\$key] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq update && sudo apt-get -qq install -y gcsfuse
fi
mkdir -p bucket
mountpoint -q bucket || gcsfuse ${MOUNT_OPTIONS[*]} $(quoted "$(bucket)") bucket
python3 -m pip install -q --user uv
cd diffpo_jax
python3 -m uv venv -q --python 3.12 .venv
python3 -m uv pip install -q --python .venv/bin/python -e '.[tpu]'"
  ssh_to all "$steps"
}

up() {
  request
  wait_until_active || die 1 "the request ended before there was a slice: launch/$SCRIPT down," \
    "then ask again, in another ZONE perhaps."
  install || die 1 "the slice is there, but installing failed (see above); it is billed until" \
    "launch/$SCRIPT down."
}

start() {
  local flags run around
  # The home directory has the same name on every worker, and is not this machine's.
  flags=$(quoted --config="$CONFIG" "${FLAGS[@]}")
  run=".venv/bin/python -m diffpo_jax.main --workdir=../$(quoted "$(workdir_under bucket)") $flags"
  # The shell outlives a SIGTERM, to tell what became of the run.  It holds the bucket open: the
  # SIGTERM that the run heeds makes gcsfuse unmount what nobody holds.
  around='trap : TERM; exec 9<../bucket'
  say "starting on all workers"
  ssh_to all "set -e
if test -e diffpo.pid && kill -0 \$(cat diffpo.pid) 2>/dev/null; then
  echo 'a run is going on here; stop it first' >&2
  exit 1
fi
cd diffpo_jax && rm -f ../diffpo.status ../diffpo.stopped
nohup setsid bash -c $(quoted "$around; $run; echo \$? > ../diffpo.status") \
  > ../diffpo.log 2>&1 < /dev/null & echo \$! > ../diffpo.pid"
}

# "exit=N" of a run that has ended, "exit=stopped" where `stop` did it, "exit=running", or nothing
# where worker 0 does not answer.
ended() {
  # 255: neither running nor ended by itself, as after a reboot.
  # shellcheck disable=SC2016
  ask exit=0 gcloud compute tpus tpu-vm ssh "$NAME" "${WHERE[@]}" --worker=0 --command='
if test -e diffpo.status; then
  status=$(cat diffpo.status)
  test "$status" != '"$TERMINATED"' || status='"$STOPPED"'
  test ! -e diffpo.stopped || test "$status" = 0 || status=stopped
  echo "exit=$status"
elif kill -0 "$(cat diffpo.pid)" 2>/dev/null; then echo exit=running
else echo exit=255; fi' -- "${ALIVE[@]}" | grep -o '^exit=[a-z0-9]*' || true
}

# Status of the run; PREEMPTED where the slice went away under it, 143 after `stop`.
follow() {
  local said now from=+1 tries=0
  while true; do
    interruptible ssh_to 0 "tail -n $from -F --pid=\$(cat diffpo.pid) diffpo.log" || true
    from=0 # a connection that was lost goes on where the log is by then
    said=$(ended)
    said=${said#exit=}
    case $said in
      0 | 2) return "$said" ;; # done, or a mistake that would come again
      stopped) return "$TERMINATED" ;;
      running) tries=0 && continue ;;
    esac
    # A host that is taken away fails the run on the others before the state says so.
    now=$(state) || now=unknown
    case $now in FAILED | SUSPENDING | SUSPENDED | DELETING) return "$PREEMPTED" ;; esac
    ((++tries < 4)) || return "${said:-1}"
    [[ $said ]] || say "worker 0 does not answer; the request is $now; trying again"
    pause "$POLL"
  done
}

stop() {
  # To the process group: setsid made one, of shell and Python.
  # shellcheck disable=SC2016
  ssh_to all 'test ! -e diffpo.pid || { touch diffpo.stopped
kill -TERM -- "-$(cat diffpo.pid)" 2>/dev/null || true; }'
}

down() {
  say "deleting $NAME"
  call gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet ||
    die 1 "$NAME could not be deleted and is billed: try launch/$SCRIPT down again, or the console."
}

finish() { # whatever ends `run`; its status stays
  local status=$?
  trap - EXIT INT TERM HUP
  end_interruptible
  [[ ! $REQUESTED ]] || (down) || status=1
  exit "$status"
}

# One slice from request to end: the run's status, or PREEMPTED.
attempt() {
  wait_until_active && install && start && follow
}

run() {
  local restarts=0 status
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  request
  while true; do
    status=0
    attempt || status=$?
    if [[ $status != "$PREEMPTED" && $status != 0 && $status != 2 ]]; then
      # Installing and starting fail too where the slice is taken away.
      case $(state || echo unknown) in
        FAILED | SUSPENDING | SUSPENDED | DELETING) status=$PREEMPTED ;;
      esac
    fi
    case $status in
      0) say "done; everything is in $WORKDIR" && return ;;
      "$STOPPED" | "$PREEMPTED") ;;
      *) die "$status" "the run ended with status $status; its log is above. What it saved is in" \
        "$WORKDIR, and the same command goes on from there." ;;
    esac
    ((restarts++ < RESTARTS)) ||
      die 1 "stopped again, and RESTARTS=$RESTARTS are used up; the same command goes on."
    if [[ $status == "$STOPPED" ]]; then
      say "the run was told to stop, and the slice is still there: starting it again (restart" \
        "$restarts of $RESTARTS)"
      continue
    fi
    say "the slice is gone; asking for another (restart $restarts of $RESTARTS)"
    down
    REQUESTED=
    request
  done
}

parse "$@"
need PROJECT YOUR_PROJECT
need ZONE us-west4-a
need_program gcloud "Install the Google Cloud CLI, then: gcloud auth login"
where
check_workdir() {
  need WORKDIR gs://YOUR_BUCKET/runs/sudoku
  [[ $WORKDIR == gs://* ]] ||
    die 2 "WORKDIR=$WORKDIR is no gs:// path; hosts of a slice share no other disk."
  workdir_under . >/dev/null
}
dispatch check_workdir run up start -- follow stop down state
