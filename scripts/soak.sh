#!/usr/bin/env bash
# Keeps an agent busy with a stream of commits, half of them bad, and prints what its memory, file descriptors,
# threads and state folder did meanwhile, with a slope for each; docs/benchmarks.md has such a table.
#
#   scripts/soak.sh [MINUTES] [--binary FILE] [OPTIONS]     30 minutes; OPTIONS: tests/bench/soak.py --help
#
# Without --binary it is the static release build, which is built if it isn't there. Needs python3, git and ssh-keygen;
# with root and what scripts/setup-tests.sh installs, one of the apps runs on podman. Exit 2: something grew that must
# not grow.
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"

minutes=30 binary=
if (($#)) && [[ $1 != -* ]]; then minutes=$1; shift; fi
if [[ ${1:-} == --binary ]]; then binary=${2:?--binary needs a file}; shift 2; fi
ready_to_measure
exec python3 "$HOLDFAST_ROOT/tests/bench/soak.py" "$binary" --minutes "$minutes" "$@"
