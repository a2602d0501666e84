#!/usr/bin/env bash
# Boots a Debian guest in QEMU, installs a built binary in it as docs/operations.md says, under the shipped unit, and
# checks from outside how it works with the shipped unit and a real podman (tests/guest). No network, no loop device and
# no hardware virtualisation is needed; root is, to make the guest's file system.
#
#   scripts/guest.sh [--binary FILE] [--suite trixie|forky] [--keep] [CHECK…]
#   scripts/guest.sh --podman-tests [--suite trixie|forky] [TEST…]
#
# Without --binary it is the static release build for this machine, which is made if it isn't there. CHECKs are names or
# the beginnings of names (`scripts/guest.sh --list`); all of them if none is given. --keep leaves the guest's disk and
# logs, and says where. --podman-tests runs the podman driver's own tests on the guest's podman instead, which takes some
# 4 minutes: those tests whose names have one of the TESTs in them, `conformance::` if none is given. The guest's base is
# made once (2 to 10 minutes, 1.5 GB) and kept in $HOLDFAST_CACHE/guest.
set -euo pipefail
exec </dev/null
source "$(dirname "$0")/env.sh"
cd "$HOLDFAST_ROOT"
export PYTHONDONTWRITEBYTECODE=1

binary='' suite=trixie podman_tests=false
arguments=()
while (($#)); do
  case $1 in
    --binary) binary=$(realpath "${2:?--binary needs a file}"); shift ;;
    --suite) suite=${2:?--suite needs a name}; shift ;;
    --list) exec python3 tests/guest/run.py --list ;;
    --keep) arguments+=(--keep) ;;
    --podman-tests) podman_tests=true ;;
    -*) die "unknown argument $1; usage: $0 [--binary FILE] [--suite trixie|forky] [--keep] [CHECK…], or --podman-tests [TEST…]" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
[[ $(uname -m) == x86_64 ]] || die "the guest is an x86_64 one, and this machine is not"
[[ $(id -u) == 0 ]] || die "making the guest's file system needs root"
for tool in mmdebstrap qemu-system-x86_64 mke2fs python3 git ssh-keygen rustc busybox; do
  command -v "$tool" >/dev/null || die "there is no $tool on this machine: run scripts/setup-tests.sh --ci"
done
if $podman_tests; then
  program=$(cargo test --locked --workspace --features holdfast/faults --test on_podman --no-run --message-format json |
    python3 -c 'import json, sys
for line in map(json.loads, sys.stdin):
    if line["reason"] == "compiler-artifact" and line["target"]["name"] == "on_podman": print(line["executable"])')
  arguments+=(--podman-tests "$program" "${CARGO_TARGET_DIR:-$HOLDFAST_ROOT/target}/tmp")
elif [[ -z $binary ]]; then
  binary=${CARGO_TARGET_DIR:-$HOLDFAST_ROOT/target}/static/holdfast-x86_64
  [[ -x $binary ]] || binary=$(scripts/build-static.sh x86_64)
fi
$podman_tests || [[ -x $binary ]] || die "there is no binary at $binary"

# What docs/operations.md asks of a box with podman (nftables is only a Recommends of netavark), and what tests need.
packages=(systemd systemd-sysv systemd-resolved udev dbus kmod iproute2 procps util-linux login e2fsprogs ca-certificates
  curl openssl initramfs-tools linux-image-cloud-amd64 apparmor podman crun netavark aardvark-dns passt nftables)

# The guest takes one command after the other by a virtio port, so that it needs no network for them.
commands_service='[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/sbin/guest-commands
Restart=always
RestartSec=500ms
KillMode=process
[Install]
WantedBy=multi-user.target'
commands='#!/bin/bash
# Each line is a number, a limit in seconds, and a script in base64; the answer is the number, the exit code, the output.
exec 3<>/dev/virtio-ports/holdfast.commands
while read -r -u 3 number limit script; do
  base64 -d <<<"$script" >/run/guest-command
  timeout -k 2 "$limit" bash /run/guest-command >/run/guest-output 2>&1 </dev/null 3>&-
  printf "%s %s %s\n" "$number" $? "$(base64 -w 0 /run/guest-output)" >&3
done'

# Where this machine gets its own packages from.
mirror() {
  local found
  found=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 -E '/debian/?$') ||
    die "apt on this machine names no mirror of Debian"
  printf '%s\n' "$found"
}

make_base() {
  local new=$1 root=$1/root
  mkdir -p "$root"
  say "Making the guest's base of Debian $suite in $base: once, some minutes"
  # Not the age of the index: testing's is valid for a week, and a mirror may stand still for longer. Who signed it counts.
  mmdebstrap --quiet --variant=minbase --mode=root --format=directory \
    --include="$(IFS=,; printf '%s' "${packages[*]}")" "$suite" "$root" \
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] $(mirror) $suite main" >&2
  cp "$root"/boot/vmlinuz-* "$new/vmlinuz"
  cp "$root"/boot/initrd.img-* "$new/initrd"
  printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
  ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  echo box >"$root/etc/hostname"
  printf '127.0.0.1 localhost box\n' >"$root/etc/hosts"
  printf '/dev/vda / ext4 defaults,noatime 0 1\n' >"$root/etc/fstab"
  printf '%s\n' "$commands" >"$root/usr/local/sbin/guest-commands"
  chmod 0755 "$root/usr/local/sbin/guest-commands"
  printf '%s\n' "$commands_service" >"$root/etc/systemd/system/guest-commands.service"
  systemctl --root="$root" --quiet enable guest-commands systemd-networkd systemd-resolved
  systemctl --root="$root" --quiet disable podman.socket podman.service apt-daily.timer apt-daily-upgrade.timer || true
  truncate -s 6G "$new/disk"
  mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$root" "$new/disk"
  rm -rf "$root"
  # The first boot compiles AppArmor's profiles, which takes as long as all else: once is enough.
  python3 tests/guest/run.py --first-boot "$new"
}

# Another list of packages or another service is another base.
hash=$(printf '%s\n' "$suite" "${packages[*]}" "$commands_service" "$commands" | sha256sum | cut -c 1-12)
base=$HOLDFAST_CACHE/guest/$suite-$hash
mkdir -p "$HOLDFAST_CACHE/guest"
exec {lock}>"$HOLDFAST_CACHE/guest/lock"
flock "$lock"
if [[ ! -d $base ]]; then
  rm -rf "$base.new"
  make_base "$base.new"
  mv "$base.new" "$base"
fi
exec {lock}>&-

exec python3 tests/guest/run.py --base "$base" --binary "$binary" "${arguments[@]}"
