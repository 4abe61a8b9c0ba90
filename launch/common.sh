# What the launchers share; they source it.  Needs bash 4.4 and git.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SCRIPT=$(basename "$0")
DRY_RUN=
# Statuses of a run that is to go on: SIGTERM ended it, with a step saved, or outside training.
STOPPED=75 TERMINATED=143

# Sentences for people go to standard error; standard output is the run's log.
say() { printf '%s: %s\n' "$SCRIPT" "$*" >&2; }

# die STATUS SENTENCE: the user's mistakes are status 2, as in the package's commands.
die() {
  local status=$1
  shift
  say "error: $*"
  exit "$status"
}

# The comment at the head of a script is its help.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//p}' "$0"; }

# call COMMAND...: runs it, or with --dry-run prints it so that it can be pasted.
call() {
  if [[ $DRY_RUN ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# ask ANSWER COMMAND...: prints what the command prints; with --dry-run says that it would be
# asked, and takes ANSWER for its output.
ask() {
  local answer=$1
  shift
  if [[ $DRY_RUN ]]; then
    printf '# asks: %s\n' "$(quoted "$@")" >&2
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

# interruptible COMMAND...: like it, but bash runs traps for signals at once, not after it.
CHILD=
interruptible() {
  local status=0
  set -m # a process group of its own, so that all of it can be ended
  "$@" </dev/null &
  CHILD=$!
  set +m
  wait "$CHILD" || status=$?
  CHILD=
  return "$status"
}
end_interruptible() { [[ ! $CHILD ]] || kill -- "-$CHILD" 2>/dev/null || true; }

pause() { [[ $DRY_RUN ]] || interruptible sleep "$1"; }

# need VARIABLE EXAMPLE: it must be set.
need() {
  [[ ${!1:-} ]] || die 2 "$1 is not set. Example: $1=$2 launch/$SCRIPT ${COMMAND:-}"
}

# need_program NAME HINT
need_program() {
  [[ $DRY_RUN ]] || command -v "$1" >/dev/null || die 2 "there is no $1 on the PATH. $2"
}

# parse WORD...: sets COMMAND and FLAGS (of python -m diffpo_jax.main) or answers --help.
parse() {
  COMMAND='' FLAGS=()
  while (($#)); do
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      --) shift && FLAGS=("$@") && break ;;
      -*) die 2 "unknown option $1; flags of the run come after --, see launch/$SCRIPT --help." ;;
      *)
        [[ ! $COMMAND ]] || die 2 "one command at a time: $COMMAND or $1?"
        COMMAND=$1
        ;;
    esac
    shift
  done
  [[ $COMMAND ]] || die 2 "which command? See launch/$SCRIPT --help."
}

# dispatch CHECK NAME... -- NAME...: runs COMMAND if it is one of the names, of those before the --
# after CHECK.
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
  die 2 "unknown command $COMMAND; see launch/$SCRIPT --help."
}

# A gs:// workdir is used through Cloud Storage FUSE: its bucket, and its path under a mount.
bucket() { local rest=${WORKDIR#gs://} && printf '%s' "${rest%%/*}"; }
workdir_under() {
  local rest=${WORKDIR#gs://}
  [[ $rest == */?* ]] || die 2 "WORKDIR=$WORKDIR names no directory: gs://BUCKET/PATH."
  printf '%s/%s' "$1" "${rest#*/}"
}

# Options of every mount.  No caching of metadata: hosts must see at once what another wrote.
MOUNT_OPTIONS=(--implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0)

# What is sent to other machines is the commit, and nothing that is not committed.
warn_of_changes() {
  [[ $DRY_RUN || -z $(git -C "$ROOT" status --porcelain --untracked-files=no) ]] ||
    say "warning: changes that are not committed are not sent."
}
