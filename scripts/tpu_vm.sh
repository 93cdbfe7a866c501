#!/usr/bin/env bash
# Trains on a Cloud TPU VM (v4-8, v5litepod-8) or a slice of several hosts (v4-16, v5litepod-16 and above): makes it,
# installs this checkout on all hosts, starts the run on the first, and starts it again when preempted.
#
# usage: scripts/tpu_vm.sh NAME ZONE TYPE --config=small --config.data.dir=gs://BUCKET/data --workdir=gs://BUCKET/run [...]
#        scripts/tpu_vm.sh electra us-central2-b v4-8 --config=small ...
#
# Needs gcloud, logged in, with a project. SPOT=yes takes a preemptible TPU; VERSION is its software. The run lies in
# the bucket, so that another TPU resumes it; delete the TPU yourself when you are done.
set -euo pipefail

if [[ $# -lt 4 ]]; then
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
name=$1 zone=$2 type=$3
shift 3
if [[ ! $type =~ ^v[0-9a-z]+-([0-9]+)$ ]]; then
  echo "tpu_vm: TYPE=$type is no type of TPU: give one as v4-8 or v5litepod-16" >&2
  exit 2
fi
# Of each generation, 8 is the largest number for one host: of cores, or of chips where they have one core.
hosts=0
if ((BASH_REMATCH[1] > 8)); then hosts=all; fi
case $type in
v5lite*) image="v2-alpha-tpuv5-lite" ;;
v5p*) image="v2-alpha-tpuv5" ;;
v6e*)
  image="v2-alpha-tpuv6e"
  if [[ $hosts == all ]]; then
    echo "tpu_vm: TYPE=$type: TensorFlow 2.20's server for slices does not know v6e: give v6e-8, or a larger v5p" >&2
    exit 2
  fi
  ;;
*) image="tpu-ubuntu2204-base" ;;
esac
version=${VERSION:-$image}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu=(gcloud compute tpus tpu-vm)

on() { # HOST COMMAND: on one host by its number, or on all
  "${tpu[@]}" ssh "$name" --zone="$zone" --worker="$1" --command="$2"
}

is_ready() {
  [[ $("${tpu[@]}" describe "$name" --zone="$zone" --format='value(state)' 2>/dev/null) == READY ]]
}

make() {
  "${tpu[@]}" delete "$name" --zone="$zone" --quiet 2>/dev/null || true # what a preemption left
  local spot=()
  if [[ ${SPOT:-} == yes ]]; then spot=(--spot); fi
  until "${tpu[@]}" create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" "${spot[@]}"; do
    echo "tpu_vm: no TPU to be had; trying again in 5 minutes" >&2
    sleep "${PAUSE:-300}"
  done
  local archive
  archive=$(mktemp -d)/electra-pretrain.tar.gz
  git -C "$root" archive --prefix=electra-pretrain/ --output="$archive" HEAD
  "${tpu[@]}" scp "$archive" "$name:" --zone="$zone" --worker="$hosts"
  # tensorflow, which other packages require, and tensorflow-tpu are one directory: what is written last is imported.
  on "$hosts" "
    tar xzf electra-pretrain.tar.gz && python3 -m venv venv &&
    venv/bin/pip install --quiet --use-pep517 -c electra-pretrain/constraints.txt 'electra-pretrain/[tpu]' &&
    venv/bin/pip install --quiet --no-deps --force-reinstall 'tensorflow-tpu==2.20.*'"
}

# On several hosts TensorFlow runs as a server on each, which alone loads libtpu; the run on the first connects to them.
environment='' serve='' end=''
if [[ $hosts == all ]]; then
  environment="TPU_NAME=$(printf %q "$name") TPU_LOAD_LIBRARY=0 "
  # An image's own service may use the server's port. A server that is there serves a run that goes on.
  # shellcheck disable=SC2016  # expanded there
  serve='
    if systemctl is-active --quiet tpu-runtime; then sudo systemctl stop tpu-runtime; fi
    listens() { (: <"/dev/tcp/localhost/${TPU_TASK_PORT:-8470}") 2>/dev/null; }
    if flock --nonblock server.lock true; then
      if listens; then
        echo "tpu_vm: another program on $HOSTNAME uses the port of the TensorFlow server: end it" >&2
        exit 1
      fi
      nohup flock server.lock bash -c "echo \$\$ >server.pid; exec venv/bin/start_grpc_tpu_worker" \
        >server.log 2>&1 </dev/null &
      until listens; do
        sleep 1
        kill -0 $! || { tail -n 5 server.log >&2; exit 1; }
      done
    fi'
  # shellcheck disable=SC2016
  end='kill "$(cat server.pid)"; flock server.lock true'
  for argument in "$@"; do
    case $argument in
    *=*://*) ;;
    --workdir=* | --config.data.dir=* | --config.phases.data_dir=*)
      echo "tpu_vm: $argument is a local path, but the hosts of a $type have no disk in common unless you mount one:" \
        "give a gs:// path" >&2
      ;;
    esac
  done
fi

# A connection may break and the run go on there: the next one waits for its end.
lock="exec 9>electra-pretrain.lock
  flock --nonblock 9 || { echo 'tpu_vm: the run continues there; waiting for its end' >&2; flock 9; }"
arguments=$(printf ' %q' "$@")
while true; do
  is_ready || make
  code=0
  if [[ $serve ]]; then on all "$serve" || code=$?; fi
  if [[ $code != 0 && $code != 255 ]]; then
    echo "tpu_vm: the TensorFlow servers did not start" >&2
    exit "$code"
  fi
  if [[ $code == 0 ]]; then
    on 0 "$lock
    ${environment}venv/bin/electra-pretrain$arguments" || code=$?
  fi
  # 255 is that of a broken connection. The next run gets new servers, without what this one left in them.
  if [[ $end && $code != 255 ]]; then on all "$end" || true; fi
  case $code in
  0 | 2) exit "$code" ;;
  *) echo "tpu_vm: the run ended with $code; starting it again" >&2 ;;
  esac
done
