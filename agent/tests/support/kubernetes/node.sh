# A node of a cluster, as the first process of namespaces of its own (network, mounts, processes): whatever it starts ends
# with it, and leaves nothing but its control groups.
#
#   bash node.sh PROGRAM FOLDER CGROUP ADDRESS
set -euo pipefail
program=$1 folder=$2 cgroup=$3 address=$4

ip link set lo up
ip link add cni0 type bridge
ip address add "$address/24" dev cni0
ip link set cni0 up
sysctl -q -w net.ipv4.ip_forward=1 2>/dev/null || true
touch "$folder/network"

# What kubelet and containerd write where they can't be told otherwise.
mount --make-rprivate /
for at in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$at"; done
mkdir -p /var/lib/kubelet /run/containerd /var/log/pods /var/log/containers /run/netns
mount --bind /var/lib/kubelet /var/lib/kubelet
mount --make-rshared /var/lib/kubelet

if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
  mkdir -p "/sys/fs/cgroup/$cgroup"
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
  done
else
  for hierarchy in /sys/fs/cgroup/*/; do
    [[ -L ${hierarchy%/} || ! -e $hierarchy/cgroup.procs ]] && continue
    mkdir -p "$hierarchy$cgroup"
    if [[ -e $hierarchy/cpuset.cpus ]]; then
      for file in cpuset.cpus cpuset.mems; do cat "$hierarchy$file" >"$hierarchy$cgroup/$file"; done
    fi
  done
fi

containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
until ctr --address "$folder/containerd.sock" version >/dev/null 2>&1; do sleep 0.1; done
ctr --address "$folder/containerd.sock" --namespace k8s.io images import "$folder/pause.tar" >"$folder/import.log" 2>&1
touch "$folder/runtime"

# The kubelet waits for the API server by itself. What it starts is reaped here.
"$program" real-kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/node.kubeconfig" \
  --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki --hostname-override edge --node-ip "$address" \
  >"$folder/real-kubelet.log" 2>&1 &
wait $!
