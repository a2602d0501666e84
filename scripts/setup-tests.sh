#!/usr/bin/env bash
# Installs what the tests and CI need on Debian 12 or newer. Run as root or as a user with sudo. Does nothing
# when all is there. Where systemd runs, Debian starts nginx and fcgiwrap as services; the tests start their own
# on free ports of loopback, so that `systemctl disable --now nginx fcgiwrap` hurts none.
#
# Not installed, as Debian's is too old: Go, which builds the control plane of the Kubernetes tests and the server of the
# gRPC probes. Without it these tests are skipped, and CI refuses that.
#
#   scripts/setup-tests.sh          what `cargo test` needs
#   scripts/setup-tests.sh --ci     also what .ci/run needs: linters, fuzzing, the targets of the static builds
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"

# git, ssh-keygen: real signatures and repositories. nginx, fcgiwrap, htpasswd, openssl: a real Git server
# over https. gcc: what C there is in the dependencies (ring, mimalloc).
packages=(git openssh-client nginx-light fcgiwrap apache2-utils openssl ca-certificates gcc libc6-dev)
# A real podman with bridge networks and DNS, a registry, and busybox for images made from scratch. runc: it takes
# every arrangement of cgroups, crun 1.8 doesn't. wrk: load while an app is updated.
# python3: the soak of the long form, and the benchmarks.
# containerd, the plugins for pods' networks: a real node for the Kubernetes tests, and what becomes of image archives.
packages+=(podman runc crun netavark aardvark-dns iptables iproute2 catatonit docker-registry skopeo busybox-static
  containerd containernetworking-plugins util-linux wrk python3)
# Probe components are made from Rust, as those who write them do.
targets=(wasm32-wasip2)
case ${1:-} in
  "") ci=false ;;
  --ci)
    ci=true
    # g++: libFuzzer. mmdebstrap to e2fsprogs: the guest test. The rest: static builds, and running the one for aarch64.
    packages+=(g++ mmdebstrap debian-archive-keyring qemu-system-x86 seabios e2fsprogs)
    packages+=(musl-tools gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static file binutils)
    targets+=(x86_64-unknown-linux-musl aarch64-unknown-linux-musl)
    ;;
  *) die "unknown argument $1; usage: $0 [--ci]" ;;
esac

# Pinned: what CI says must not change by itself.
CARGO_DENY=0.20.2
CARGO_FUZZ=0.13.2

as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

install_packages() {
  local package missing=()
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "Installing the Debian packages ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_targets() {
  local target missing=() have
  have=$(rustup target list --installed)
  for target in "${targets[@]}"; do
    grep -qx "$target" <<<"$have" || missing+=("$target")
  done
  ((${#missing[@]})) || return 0
  say "Adding the Rust targets ${missing[*]}"
  rustup target add "${missing[@]}"
}

# Compiles a cargo subcommand into the cache, once. Not optimized: it runs for seconds, and is compiled in a
# third of the time.
install_tool() {
  local name=$1 version=$2
  if "cargo-$name" --version 2>/dev/null | grep -q " $version\$"; then return 0; fi
  say "Compiling cargo-$name $version into $HOLDFAST_CACHE/tools"
  CARGO_TARGET_DIR=$HOLDFAST_CACHE/tools-target \
    cargo install --locked --debug --root "$HOLDFAST_CACHE/tools" "cargo-$name@$version"
}

# Builds a program of the tests by Go, from tests/FOLDER into the cache, once for each state of its sources.
# agent/tests/support/go_program.rs looks for it under the same name.
#   build_by_go FOLDER NAME MB WHO   MB: what the build takes at most, sources and build cache and program. WHO needs it.
build_by_go() {
  local source=$1 name=$2 takes=$3 who=$4 hash folder binary build_cache free lock
  hash=$(go_sources_hash "$source")
  folder=$HOLDFAST_CACHE/tools/$source
  binary=$folder/$hash/$name
  if [[ -x $binary ]]; then return 0; fi
  if ! command -v go >/dev/null; then
    local word="there is no Go on this machine, which builds tests/$source for $who"
    $ci && die "$word: install Go, as tests/$source/go.mod asks for it"
    say "$word: those tests will say that they are skipped"
    return 0
  fi
  build_cache=$(go env GOCACHE)
  mkdir -p "$folder" "$build_cache"
  exec {lock}>"$folder/lock"
  flock "$lock"
  # Another may have built it meanwhile.
  if [[ -x $binary ]]; then return 0; fi
  # Sources, compiled packages and the program. With filled caches it's less, and nobody knows before.
  free=$(($(df --output=avail -k "$build_cache" | tail -n 1) / 1024))
  if ((free < takes)); then
    die "building tests/$source for $who may take $takes MB, and there are $free MB at $build_cache: free some, or set \
GOCACHE to a folder with more"
  fi
  say "Building tests/$source for $who into $folder/$hash; tests/$source/build.sh says how long it takes"
  mkdir -p "$folder/$hash"
  "tests/$source/build.sh" "$binary.new"
  mv "$binary.new" "$binary"
  # Those of older sources; the two newest may be of somebody's other branch.
  find "$folder" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d ' ' -f 2- |
    xargs --no-run-if-empty --delimiter='\n' rm -rf
  exec {lock}>&-
}

go_sources_hash() {
  (cd "tests/$1" && export LC_ALL=C && sha256sum build.sh go.mod go.sum *.go | sha256sum | cut -c 1-16)
}

install_nightly() {
  if cargo +nightly --version >/dev/null 2>&1; then return 0; fi
  say "Installing Rust's nightly toolchain, which fuzzing needs"
  rustup toolchain install nightly --profile minimal
}

command -v cargo >/dev/null || die "there is no cargo on this machine: install Rust with rustup first"
command -v rustup >/dev/null || die "there is no rustup on this machine: it brings the Rust targets ${targets[*]}"
cd "$HOLDFAST_ROOT"
install_packages
install_targets
build_by_go control-plane holdfast-test-plane 5000 "the Kubernetes tests"
build_by_go grpc-server holdfast-test-grpc 500 "the tests of gRPC probes"
if $ci; then
  install_tool deny "$CARGO_DENY"
  install_tool fuzz "$CARGO_FUZZ"
  install_nightly
  rm -rf "$HOLDFAST_CACHE/tools-target"
fi
