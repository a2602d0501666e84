#!/usr/bin/env bash
# Builds the static binary that goes into an OS image, and prints its path as the only line on stdout.
#
#   scripts/build-static.sh [x86_64|aarch64] [--no-wasm] [--profile NAME]
#
# Needs what `scripts/setup-tests.sh --ci` installs: the Rust target, musl-gcc or aarch64-linux-gnu-gcc.
# About 15 minutes of CPU with WebAssembly, 6 without. The profile is `release`; `static-quick` compiles in a
# fraction of the time, to see whether it runs.
#
# The same sources, toolchain and features give the same bytes wherever the clone, cargo's home and the target
# folder lie: no path of the machine gets in.
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"
cd "$HOLDFAST_ROOT"

arch=x86_64 profile=release suffix=
features=()
while (($#)); do
  case $1 in
    x86_64 | aarch64) arch=$1 ;;
    --no-wasm) features=(--no-default-features --features podman,kubernetes,demo) suffix=-no-wasm ;;
    --profile) profile=${2:?--profile needs a name}; shift ;;
    *) die "unknown argument $1; usage: $0 [x86_64|aarch64] [--no-wasm] [--profile NAME]" ;;
  esac
  shift
done
target=$arch-unknown-linux-musl
target_dir=${CARGO_TARGET_DIR:-$HOLDFAST_ROOT/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}

# The C in it is ring and mimalloc. Rust brings musl's own start files and libc.a, and links by a gcc.
case $arch in
  x86_64)
    cc=musl-gcc
    export CC_x86_64_unknown_linux_musl=$cc
    ;;
  aarch64)
    cc=aarch64-linux-gnu-gcc
    export CC_aarch64_unknown_linux_musl=$cc AR_aarch64_unknown_linux_musl=aarch64-linux-gnu-ar
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=$cc
    ;;
esac
command -v $cc >/dev/null || die "there is no $cc: run scripts/setup-tests.sh --ci"

# Sources must lie where they will be compiled, so that their folders are known.
cargo fetch --locked --target "$target" >&2

# cargo compiles the workspace by relative paths; what is absolute lies in these places. The later of two that
# match wins, so the longer ones come last.
remap=("$target_dir=/target" "$(rustc --print sysroot)=/rust" "$cargo_home=/cargo")
for registry in "$cargo_home"/registry/src/*/; do
  remap+=("${registry%/}=/crates")
done
rustflags=() cflags=()
for pair in "${remap[@]}"; do
  rustflags+=("--remap-path-prefix=$pair")
  cflags+=("-ffile-prefix-map=$pair")
done
# Encoded, the flags are told apart by 0x1f instead of spaces, which a path may have.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${rustflags[*]}")
export CARGO_ENCODED_RUSTFLAGS "CFLAGS_${target//-/_}=${cflags[*]}"

# mimalloc's C writes down when it was compiled; gcc takes that from here.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

out=$target_dir/static/holdfast-$arch$suffix
[[ $profile == release ]] || out=$out-$profile
# Where this fails, nobody takes an older one for it.
rm -f "$out"

say "Building holdfast for $target, profile $profile${suffix:+, without WebAssembly}"
# A position-independent binary has a table of a hundred thousand places to be moved at its start: packed, it is a
# hundredth of the size. Older linkers for aarch64 don't know how.
link=()
[[ $arch == x86_64 ]] && link=(-Clink-arg=-Wl,-z,pack-relative-relocs)
cargo rustc --locked --package holdfast --bin holdfast --profile "$profile" --target "$target" "${features[@]}" \
  -- "${link[@]}" >&2

mkdir -p "$target_dir/static"
cp "$target_dir/$target/$profile/holdfast" "$out"

# A machine's path in the binary would make it another on every machine, and tell who built it.
for path in "$HOLDFAST_ROOT/" "$target_dir/" "$cargo_home/"; do
  if grep -qaF "$path" "$out"; then die "$out has the path $path in it; see it by: strings $out | grep -F $path"; fi
done
echo "$out"
