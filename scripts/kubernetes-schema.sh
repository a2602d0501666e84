#!/usr/bin/env bash
# Makes agent/core/src/kubernetes/schema.txt: what the kinds of Kubernetes look like in the releases below, taken
# together. A field that one of them has is known; one that one of them can do without may be left out.
#
# Needs Go, to download the modules (20 MB each), and python3.
#
#   scripts/kubernetes-schema.sh
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"

# The supported releases: any of them may be on a box. `OLDEST` in agent/core/src/kubernetes/schema.rs is the first.
releases=(v1.32 v1.33 v1.34 v1.35 v1.36)

scratch=$(mktemp -d)
trap 'chmod -R u+w "$scratch"; rm -rf "$scratch"' EXIT
cd "$scratch"
printf 'module schema\n\ngo 1.26.0\n' >go.mod
folders=()
for release in "${releases[@]}"; do
  say "Downloading Kubernetes $release"
  folders+=("$(go mod download -json "k8s.io/kubernetes@$release" | awk -F '"' '$2 == "Dir" { print $4 }')")
done
python3 "$HOLDFAST_ROOT/scripts/kubernetes-schema.py" "${folders[@]}" >schema.txt
mv schema.txt "$HOLDFAST_ROOT/agent/core/src/kubernetes/schema.txt"
