#!/usr/bin/env bash
# Ends the cluster of `make run` with everything it runs: the server, its containers, containerd,
# the pod network. The data folder stays: the next `make run` goes on where this one was.
set -euo pipefail

data=${ORCH_DATA_DIR:-/var/lib/orch}
if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=ORCH_DATA_DIR,ORCH_CGROUP_ROOT "$0" "$@"
fi
pid_file=$data/run.pid

# end PID - asks it to end, then makes it.
end() {
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 100); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
}

if [ -e "$pid_file" ]; then
  end "$(cat "$pid_file")"
  rm -f "$pid_file"
fi

# Containers outlive the server on purpose. Theirs is what the shims of this data folder's
# containerd have started; what another cluster on this machine runs is left alone.
containerd=$data/agent/containerd

# ours - containerd and its shims, by the folder their command lines name.
ours() {
  local process
  for process in /proc/[0-9]*; do
    grep -qsF -- "$containerd" "$process/cmdline" && echo "${process#/proc/}"
  done || true
}

# below PID… - the processes given and all that they have started.
below() {
  local children
  while [ $# -gt 0 ]; do
    echo "$@"
    children=$(printf '%s,' "$@")
    # shellcheck disable=SC2046
    set -- $(ps -o pid= --ppid "${children%,}" || true)
  done
}

for round in 1 2 3; do
  # shellcheck disable=SC2046
  pids=$(below $(ours))
  [ -n "$pids" ] || break
  # shellcheck disable=SC2086
  kill -9 $pids 2>/dev/null || true
  sleep 0.2
done

for name in orch-proxy orch-masquerade orch-hostport; do
  nft delete table ip "$name" 2>/dev/null || true
done
for link in orch.vxlan orch0; do
  ip link delete "$link" 2>/dev/null || true
done
# Deepest first: pods' volumes, namespaces and root file systems.
awk -v data="$data/" '$2 ~ "^/run/orch/" || index($2, data) == 1 {print $2}' /proc/self/mounts | sort -r | while read -r point; do
  umount -l "$point" 2>/dev/null || true
done
cgroups=${ORCH_CGROUP_ROOT:-/kubepods}
find /sys/fs/cgroup -depth -type d \( -path "*$cgroups" -o -path "*$cgroups/*" \) -exec rmdir {} + 2>/dev/null || true
echo "stopped; data is kept in $data"
