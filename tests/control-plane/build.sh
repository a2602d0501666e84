#!/usr/bin/env bash
# Builds the control plane of the Kubernetes tests: one program of about 170 MB. Cold, it takes eight
# minutes of one CPU, and 3 GB in Go's caches; with these filled, half a minute.
#
# `go vet .` isn't part of it: it looks into every dependency as well, for minutes. Run it after a change.
#
#   tests/control-plane/build.sh OUTPUT
set -euo pipefail
exec </dev/null
output=$1
cd "$(dirname "$0")"

# What `kubectl version` and `/version` tell is the release of Kubernetes that go.mod names.
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print $2 }' go.mod)
IFS=. read -r major minor _ <<<"${version#v}"
package=k8s.io/component-base/version
flags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
flags+=" -X $package.gitTreeState=clean"

unformatted=$(gofmt -l .)
if [[ -n $unformatted ]]; then
  echo "not as gofmt would have it: $unformatted" >&2
  exit 1
fi
# Two at a time: the largest packages take a gigabyte each.
nice -n 5 go build -p 2 -trimpath -ldflags "$flags" -o "$output" .
