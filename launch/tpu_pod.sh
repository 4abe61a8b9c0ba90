#!/usr/bin/env bash
# Runs diffpo_jax on a Cloud TPU slice with any number of hosts, with queued resources.
#
#   launch/tpu_pod.sh [--dry-run] COMMAND [-- FLAGS OF python -m diffpo_jax.main]
#
#   run     up, start, then follow.  If the slice is preempted, it is deleted and requested again,
#           and the run continues from its last checkpoint; if the hosts got SIGTERM and stay, the
#           run is started again on them.  The slice is always deleted at the end, also after
#           failures and Ctrl-C
#   up      requests the slice, waits for it, and installs the commit on all workers
#   start   starts the run on all workers; it continues if the connection is lost
#   follow  prints the log of worker 0 until the run ends; the exit status is that of the run
#   stop    ends the run on all workers after its step is saved; the slice stays and is billed
#   down    deletes the slice
#   state   prints the state of the request
#
#   --dry-run prints the commands and runs none of them.
#
# Settings (environment variables) and their defaults:
#   PROJECT   Google Cloud project (required)
#   ZONE      zone of the slice (required), for example us-west4-a
#   WORKDIR   gs://BUCKET/PATH (required), on a bucket with a hierarchical namespace
#   CONFIG    configs/sudoku.py      NAME      diffpo, name of request and slice
#   TYPE      v5litepod-16           RUNTIME   v2-alpha-tpuv5-lite, the image for TYPE
#   SPOT      1 (a spot slice); 0 asks for a slice that is not preempted and costs more
#   RESTARTS  20, how often `run` starts the run again, on the same slice or another
#   WAIT      86400, seconds to wait for a slice; POLL: 30, seconds between two polls of its state
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NAME=${NAME:-diffpo} TYPE=${TYPE:-v5litepod-16} RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
CONFIG=${CONFIG:-configs/sudoku.py} SPOT=${SPOT:-1} RESTARTS=${RESTARTS:-20}
WAIT=${WAIT:-86400} POLL=${POLL:-30}
REQUESTED= # set while a request of this call may exist
PREEMPTED=76 # the slice was taken away; the run never exits with this status
# Without these options a connection to a machine that was taken away hangs for hours.
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
  REQUESTED=1 # set before the request, which may succeed although it is interrupted
  call gcloud compute tpus queued-resources create "$NAME" "${WHERE[@]}" --node-id="$NAME" \
    --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${tier[@]}" && return
  REQUESTED=
  die 1 "the request for $TYPE was refused (see above); check quota, ZONE, TYPE and RUNTIME."
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
      die 1 "no slice within WAIT=$WAIT seconds; the request is $now. Try another ZONE or TYPE."
    pause "$POLL"
  done
}

# Installs the commit with its own Python (the image's is too old for JAX), and mounts the bucket.
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
  wait_until_active || die 1 "the request ended before a slice was granted; run" \
    "launch/$SCRIPT down, then up again, perhaps in another ZONE."
  install || die 1 "the slice exists, but installing failed (see above); it is billed until" \
    "launch/$SCRIPT down."
}

start() {
  local flags run around
  # The path is relative to the home directory, because that of the workers is not known here.
  flags="$(quoted --config="$CONFIG" "${FLAGS[@]}")${OVERWRITE:+ $OVERWRITE}"
  run=".venv/bin/python -m diffpo_jax.main --workdir=../$(quoted "$(workdir_under bucket)") $flags"
  # The shell survives SIGTERM, so that it can write the run's status.  File descriptor 9 keeps the
  # mount in use: on the SIGTERM that stops the run, gcsfuse unmounts a bucket that nothing uses.
  around='trap : TERM; exec 9<../bucket'
  say "starting on all workers"
  ssh_to all "set -e
if test -e diffpo.pid && kill -0 \$(cat diffpo.pid) 2>/dev/null; then
  echo 'a run is already running here; stop it first' >&2
  exit 1
fi
cd diffpo_jax && rm -f ../diffpo.status ../diffpo.stopped
nohup setsid bash -c $(quoted "$around; $run; echo \$? > ../diffpo.status") \
  > ../diffpo.log 2>&1 < /dev/null & echo \$! > ../diffpo.pid" || return
  OVERWRITE='' # of the first start alone
}

# Prints "exit=N" if the run has ended, "exit=stopped" if `stop` ended it, "exit=running" if it
# runs, and nothing if worker 0 does not answer.
ended() {
  # 255: neither running nor ended normally, for example after a reboot.
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

# Returns the status of the run, PREEMPTED if its slice was taken away, or 143 after `stop`.
follow() {
  local outcome now from=+1 tries=0
  while true; do
    interruptible ssh_to 0 "tail -n $from -F --pid=\$(cat diffpo.pid) diffpo.log" || true
    from=0 # after a lost connection, continue at the current end of the log
    outcome=$(ended)
    outcome=${outcome#exit=}
    case $outcome in
      0 | 2) return "$outcome" ;; # done, or a user's mistake, which would only repeat
      stopped) return "$TERMINATED" ;;
      running) tries=0 && continue ;;
    esac
    # If a host is taken away, the run on the others fails before the request's state changes.
    now=$(state) || now=unknown
    case $now in FAILED | SUSPENDING | SUSPENDED | DELETING) return "$PREEMPTED" ;; esac
    ((++tries < 4)) || return "${outcome:-1}"
    [[ $outcome ]] || say "worker 0 does not answer (the request is $now); trying again"
    pause "$POLL"
  done
}

stop() {
  # The signal goes to the process group of shell and Python, which setsid made.
  # shellcheck disable=SC2016
  ssh_to all 'test ! -e diffpo.pid || { touch diffpo.stopped
kill -TERM -- "-$(cat diffpo.pid)" 2>/dev/null || true; }'
}

down() {
  say "deleting $NAME"
  call gcloud compute tpus queued-resources delete "$NAME" "${WHERE[@]}" --force --quiet ||
    die 1 "$NAME could not be deleted and is billed; try launch/$SCRIPT down again, or the console."
}

finish() { # exit trap of `run`: deletes the slice and keeps the exit status
  local status=$?
  trap - EXIT INT TERM HUP
  end_interruptible
  [[ ! $REQUESTED ]] || (down) || status=1
  exit "$status"
}

# Installs and runs on one slice.  Returns the run's status, or PREEMPTED.
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
      # Installing and starting also fail if the slice is taken away.
      case $(state || echo unknown) in
        FAILED | SUSPENDING | SUSPENDED | DELETING) status=$PREEMPTED ;;
      esac
    fi
    case $status in
      0) say "done; the results are in $WORKDIR" && return ;;
      "$STOPPED" | "$PREEMPTED") ;;
      *) die "$status" "the run ended with status $status; its log is above. Its checkpoints are" \
        "in $WORKDIR, and the same command continues from there." ;;
    esac
    ((restarts++ < RESTARTS)) ||
      die 1 "the run was stopped again and all RESTARTS=$RESTARTS are used; the same command" \
        "continues it."
    if [[ $status == "$STOPPED" ]]; then
      say "the run got SIGTERM but the slice still exists; starting it again (restart" \
        "$restarts of $RESTARTS)"
      continue
    fi
    say "the slice was taken away; requesting another (restart $restarts of $RESTARTS)"
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
    die 2 "WORKDIR=$WORKDIR is not a gs:// path; the hosts of a slice share no other disk."
  workdir_under . >/dev/null
}
dispatch check_workdir run up start -- follow stop down state
