# Functions that the launchers share; they source this file.  Needs bash 4.4 and git.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=$(basename "$0")
DRY_RUN=
# Exit statuses of a run that should be started again: SIGTERM ended it while it trained, with the
# step saved (75), or outside training (143).
STOPPED=75 TERMINATED=143

# Prints a message to standard error; standard output is the run's log.
say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

# die STATUS SENTENCE: prints an error and exits.  Status 2 is a mistake of the user, as in the
# package's commands.
die() {
  local status=$1
  shift
  say "error: $*"
  exit "$status"
}

# Prints the comment at the top of the script, which is its help.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$0"; }

# call COMMAND...: runs the command; with --dry-run prints it, quoted for a shell.
call() {
  if [[ $DRY_RUN ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# ask ANSWER COMMAND...: runs a command whose output is needed; with --dry-run prints the command to
# standard error and ANSWER as its output.
ask() {
  local answer=$1
  shift
  if [[ $DRY_RUN ]]; then
    printf '# reads the output of: %s\n' "$(quoted "$@")" >&2
    printf '%s\n' "$answer"
  else
    "$@"
  fi
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# interruptible COMMAND...: runs the command so that bash runs its signal traps at once, not only
# after the command has ended.
CHILD=
interruptible() {
  local status=0
  set -m # a process group of its own, so that the whole group can be killed
  "$@" </dev/null &
  CHILD=$!
  set +m
  wait "$CHILD" || status=$?
  CHILD=
  return "$status"
}
end_interruptible() { [[ ! $CHILD ]] || kill -- "-$CHILD" 2>/dev/null || true; }

pause() { [[ $DRY_RUN ]] || interruptible sleep "$1"; }

# need VARIABLE EXAMPLE: exits with an error if the variable is not set.
need() {
  [[ ${!1:-} ]] || die 2 "$1 is not set. Example: $1=$2 launch/$SCRIPT ${COMMAND:-}"
}

# need_program NAME HINT: exits with an error if the program is not installed.
need_program() {
  [[ $DRY_RUN ]] || command -v "$1" >/dev/null || die 2 "$1 is not on the PATH. $2"
}

# parse WORD...: sets COMMAND, and FLAGS of python -m diffpo_jax.main; prints the help for --help.
# --overwrite is not in FLAGS but in OVERWRITE, because only the first start of a run may have it: at
# a restart it would remove what the run has done.
parse() {
  local flag kept=()
  COMMAND='' FLAGS=() OVERWRITE=''
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      --) shift && FLAGS=("$@") && break ;;
      -*) die 2 "unknown option $1; flags of the run come after --. See launch/$SCRIPT --help." ;;
      *)
        [[ ! $COMMAND ]] || die 2 "give one command, not both $COMMAND and $1."
        COMMAND=$1
        ;;
    esac
    shift
  done
  [[ $COMMAND ]] || die 2 "no command given. See launch/$SCRIPT --help."
  for flag in "${FLAGS[@]}"; do
    if [[ $flag =~ ^--?overwrite(=[Tt]rue|=1)?$ ]]; then OVERWRITE=--overwrite; else kept+=("$flag"); fi
  done
  FLAGS=("${kept[@]}")
}

# dispatch CHECK NAME... -- NAME...: runs COMMAND if it is one of the names.  For the names before
# the -- it first runs CHECK.
dispatch() {
  local check=$1 name
  shift
  for name; do
    if [[ $name == -- ]]; then
      check=true
    elif [[ $name == "$COMMAND" ]]; then
      "$check"
      "$COMMAND"
      return
    fi
  done
  die 2 "unknown command $COMMAND. See launch/$SCRIPT --help."
}

# A gs:// workdir is used through Cloud Storage FUSE.  `bucket` prints its bucket;
# `workdir_under MOUNT` prints its path below a mount point.
bucket() { local rest=${WORKDIR#gs://} && printf '%s' "${rest%%/*}"; }
workdir_under() {
  local rest=${WORKDIR#gs://}
  [[ $rest == */?* ]] || die 2 "WORKDIR=$WORKDIR has no directory; use gs://BUCKET/PATH."
  [[ ${rest%%/*} =~ ^[a-z0-9][a-z0-9._-]*$ ]] ||
    die 2 "WORKDIR=$WORKDIR: a bucket's name has lower case letters, digits, dots and dashes only."
  printf '%s/%s' "$1" "${rest#*/}"
}

# Options of every mount.  Metadata is not cached, because hosts must see at once what another host
# wrote.
MOUNT_OPTIONS=(--implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0)

# Only the commit is sent to other machines, without uncommitted changes.
warn_of_changes() {
  [[ $DRY_RUN || -z $(git -C "$ROOT" status --porcelain --untracked-files=no) ]] ||
    say "warning: uncommitted changes are not sent."
}
