#!/usr/bin/env bash
# Starts a one-node cluster in the background with manifests/nginx.yaml in its watched folder, waits
# until nginx answers through its Service, and shows it. `make stop` ends it.
set -euo pipefail

orch=$(realpath "${1:?usage: run.sh ORCH}")
here=$(cd "$(dirname "$0")/../.." && pwd)
data=${ORCH_DATA_DIR:-/var/lib/orch}
export ORCH_DATA_DIR=$data
kubeconfig=${ORCH_WRITE_KUBECONFIG:-/etc/orch/kubeconfig.yaml}
pid_file=$data/run.pid
log=$data/run.log

if [ "$(id -u)" != 0 ]; then
  exec sudo --preserve-env=ORCH_DATA_DIR,ORCH_WRITE_KUBECONFIG,ORCH_CGROUP_ROOT,ORCH_LOG "$0" "$@"
fi

mkdir -p "$data/agent/images" "$data/server/manifests"

if command -v kubectl >/dev/null; then
  kubectl() { command kubectl --kubeconfig "$kubeconfig" "$@"; }
else
  "$here/tests/support/kubectl.sh" /usr/local/bin/kubectl
  kubectl() { /usr/local/bin/kubectl --kubeconfig "$kubeconfig" "$@"; }
fi

echo "== image: nginx from Debian's packages, into $data/agent/images"
"$here/tests/images/build.sh" "$here/target/images"
cp -u "$here/target/images/"*.tar "$data/agent/images/"

if [ -e "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
  echo "== orch runs already (pid $(cat "$pid_file"))"
else
  echo "== starting: orch server (log: $log)"
  # A demonstration also runs on a full disk; a node with the default thresholds would refuse Pods.
  setsid "$orch" server --log-level="${ORCH_LOG:-info}" --eviction-hard='memory.available<50Mi,nodefs.available<1%'  >>"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
fi
cp "$here/manifests/nginx.yaml" "$data/server/manifests/nginx.yaml"

# wait SECONDS WHAT COMMAND… - until the command succeeds.
wait_for() {
  local seconds=$1 what=$2 end
  shift 2
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ] || ! kill -0 "$(cat "$pid_file")" 2>/dev/null; then
      echo "$what: not within $seconds s. The end of $log:" >&2
      tail -n 30 "$log" >&2
      exit 1
    fi
    sleep 0.2
  done
}
wait_for 60 "API server ready" kubectl get --raw /readyz
wait_for 60 "node Ready" kubectl wait node --all --for=condition=Ready --timeout=1s
wait_for 60 "nginx applied from the folder" kubectl get deployment nginx
wait_for 120 "nginx running" kubectl rollout status deployment/nginx --timeout=1s
address=$(kubectl get service nginx -o jsonpath='{.spec.clusterIP}')
wait_for 30 "nginx answering at $address" curl -fsS --max-time 2 "http://$address/"

echo; echo "== kubectl get nodes -o wide";              kubectl get nodes -o wide
echo; echo "== kubectl get deployment,pods,service -o wide"; kubectl get deployment,pods,service -o wide
echo; echo "== curl http://$address/ (the Service's address)"
curl -fsS --max-time 5 "http://$address/"
cat <<TEXT

nginx answers. Look around:
  export KUBECONFIG=$kubeconfig
  kubectl get pods -A -o wide
  kubectl scale deployment nginx --replicas 6
  kubectl exec -it deploy/nginx -- sh
  $orch status
Edit $data/server/manifests/nginx.yaml and see the cluster follow within a second.
Stop everything: make stop
TEXT
