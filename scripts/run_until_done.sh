#!/usr/bin/env bash
# Runs electra-pretrain again and again until the run is done: after a preemption at once, after a crash with a pause.
#
# usage: scripts/run_until_done.sh --config=small --config.data.dir=data --workdir=run [...]
#
# Ends with 0 when the run is done, with 2 at a mistake in the command or its files, and with the last exit code after
# MAX_CRASHES (default 5) crashes one after the other. PAUSE (default 30) is in seconds.
set -uo pipefail

max_crashes=${MAX_CRASHES:-5}
pause=${PAUSE:-30}
crashes=0
stopped=

# A signal is for the run, which saves itself and ends with 75; then this script ends as well.
trap 'stopped=yes; kill -TERM "$child" 2>/dev/null' TERM INT

while true; do
  electra-pretrain "$@" &
  child=$!
  # Twice, because a signal ends the first wait before the run has saved itself.
  wait "$child"
  code=$?
  if [[ -n $stopped ]]; then
    wait "$child"
    code=$?
    exit "$code"
  fi
  case $code in
  0 | 2) exit "$code" ;;
  75) crashes=0 ;;
  *)
    crashes=$((crashes + 1))
    echo "run_until_done: electra-pretrain ended with $code ($crashes of $max_crashes crashes)" >&2
    if ((crashes >= max_crashes)); then
      exit "$code"
    fi
    sleep "$pause"
    ;;
  esac
done
