#!/usr/bin/env bash
# Trains on a Cloud TPU VM of one host (v4-8, v5litepod-8): makes it, installs this checkout there, starts the
# run, and starts it again when preempted.
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
version=${VERSION:-tpu-ubuntu2204-base}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu=(gcloud compute tpus tpu-vm)

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
  "${tpu[@]}" scp "$archive" "$name:" --zone="$zone" --worker=0
  # tensorflow, which other packages require, and tensorflow-tpu are one directory: what is written last is imported.
  "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 --command="
    tar xzf electra-pretrain.tar.gz && python3 -m venv venv &&
    venv/bin/pip install --quiet --use-pep517 -c electra-pretrain/constraints.txt 'electra-pretrain/[tpu]' &&
    venv/bin/pip install --quiet --no-deps --force-reinstall 'tensorflow-tpu==2.20.*'"
}

# A connection may break and the run go on there: the next one waits for its end.
lock="exec 9>electra-pretrain.lock
  flock --nonblock 9 || { echo 'tpu_vm: the run continues there; waiting for its end' >&2; flock 9; }"
arguments=$(printf ' %q' "$@")
while true; do
  is_ready || make
  code=0
  "${tpu[@]}" ssh "$name" --zone="$zone" --worker=0 --command="$lock
    venv/bin/electra-pretrain$arguments" || code=$?
  case $code in
  0 | 2) exit "$code" ;;
  *) echo "tpu_vm: the run ended with $code; starting it again" >&2 ;;
  esac
done
