# Where the scripts keep what is costly to build. Sourced by them; sets and exports:
#   HOLDFAST_CACHE     a folder outside of the clone, so that a fresh clone need not build it all again
#   CARGO_TARGET_DIR   in it when CI is set; else cargo's own choice, unless it was given
#   PATH               with the tools that setup-tests.sh compiled

HOLDFAST_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HOLDFAST_ROOT
export HOLDFAST_CACHE=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}
export PATH="$HOLDFAST_CACHE/tools/bin:$PATH"
if [[ -n ${CI:-} ]]; then
  export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOLDFAST_CACHE/target}
  # Nobody builds on from CI's intermediate results, and they are half of what is written.
  export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
fi

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }

# Sets `binary` to the static release build, which is made if it isn't there, unless it is set; and wants the tools that
# the measuring scripts of tests/bench need.
ready_to_measure() {
  if [[ -z $binary ]]; then
    binary=${CARGO_TARGET_DIR:-$HOLDFAST_ROOT/target}/static/holdfast-$(uname -m)
    [[ -x $binary ]] || binary=$("$HOLDFAST_ROOT/scripts/build-static.sh" "$(uname -m)")
  fi
  local tool
  for tool in python3 git ssh-keygen; do
    command -v "$tool" >/dev/null || die "there is no $tool on this machine: apt-get install python3 git openssh-client"
  done
}
