#!/usr/bin/env bash
# Builds the gRPC server of the tests of probes: one static program of about 12 MB, in half a minute.
#
#   tests/grpc-server/build.sh OUTPUT
set -euo pipefail
exec </dev/null
output=$1
cd "$(dirname "$0")"

unformatted=$(gofmt -l .)
if [[ -n $unformatted ]]; then
  echo "not as gofmt would have it: $unformatted" >&2
  exit 1
fi
# Static, as it is alone in its container.
CGO_ENABLED=0 nice -n 5 go build -p 2 -trimpath -ldflags "-s -w" -o "$output" .
