#!/usr/bin/env bash
# Shows that a built binary runs: from a commit to an object in the simulated runtime, in a temporary folder.
#
#   scripts/smoke.sh BINARY [RUNNER…]     RUNNER is what starts it, such as qemu-aarch64-static
#
# Needs git, to make the repository.
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"
(($#)) || die "usage: $0 BINARY [RUNNER…]"
binary=$(realpath "$1")
shift
runner=("$@")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

run() { timeout 120 "${runner[@]}" "$binary" "$@"; }

[[ -n $(run version) ]] || die "$binary version said nothing"

mkdir -p repo/apps/pos/manifests repo/devices/lab repo/sites
api='apiVersion: holdfast.dev/v1alpha1'
printf '%s\n' "$api" 'kind: Fleet' 'metadata: { name: smoke }' >repo/holdfast.yaml
printf '%s\n' "$api" 'kind: Site' 'metadata: { name: lab }' >repo/sites/lab.yaml
printf '%s\n' "$api" 'kind: Device' 'metadata: { name: lab/box }' 'spec: { site: lab, values: { shop: "0042" } }' \
  >repo/devices/lab/box.yaml
printf '%s\n' "$api" 'kind: App' 'metadata: { name: pos }' 'spec:' '  placement: {}' \
  '  container: { namespace: pos, driver: simulated }' '  health: { startup: 1s, deadline: 60s, soak: 1s }' \
  >repo/apps/pos/app.yaml
printf '%s\n' 'apiVersion: v1' 'kind: ConfigMap' 'metadata: { name: shop }' 'data: { shop: "{{ values.shop }}" }' \
  >repo/apps/pos/manifests/shop.yaml.j2
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
git -C repo init -q -b main
git -C repo add -A
git -C repo -c user.name=smoke -c user.email=smoke@example.com commit -q -m "Smoke"

cat >agent.toml <<TOML
[device]
name = "lab/box"
[source]
url = "file://$dir/repo"
[trust]
mode = "none"
[state]
dir = "state"
[api]
socket = "api.sock"
[drivers.wasm]
enabled = false
[drivers.simulated]
dir = "runtime"
TOML

run --config agent.toml run --once --timeout 90s || die "holdfast run --once ended with $?"
grep -qs '"0042"' runtime/objects/*shop.json || die "the simulated runtime doesn't hold what the commit says"
run --config agent.toml status
