# Where the scripts keep what is costly to make. Sourced by them; sets and exports:
#   HOLDFAST_CACHE     a folder outside of the clone, so that a fresh clone need not build all again
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
