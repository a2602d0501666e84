#!/usr/bin/env bash
# Measures a holdfast binary from outside: idle, start, 1,000 apps, a deploy, a large fleet, what is written to flash,
# containers on podman and on a Kubernetes API server, its size. Prints a table beside a reference taken in the same run; docs/benchmarks.md keeps
# one. About half an hour, on a machine that does nothing else.
#
#   scripts/bench.sh [BINARY] [OPTIONS]     OPTIONS: tests/bench/bench.py --help
#
# Without BINARY it is the static release build, which is built if it isn't there. Needs python3, and git and
# ssh-keygen to make signed repositories; for the large fleet nginx and fcgiwrap; for podman root, rustc, and what
# scripts/setup-tests.sh installs; for flash strace; for Kubernetes the control plane that it builds. Exit 2: a target was missed.
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"

binary=
if (($#)) && [[ $1 != -* ]]; then binary=$1; shift; fi
ready_to_measure
exec python3 "$HOLDFAST_ROOT/tests/bench/bench.py" "$binary" "$@"
