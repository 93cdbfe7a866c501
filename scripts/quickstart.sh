#!/usr/bin/env bash
# Trains and evaluates a tiny ELECTRA on English prose that lies on this machine: some 6 minutes on 2 cores.
#
# usage: scripts/quickstart.sh [OUTPUT_DIR] [FLAGS OF electra-pretrain ...]
#
# OUTPUT_DIR (default: quickstart/ in the checkout) gets data/ and run/. Started again, it resumes where it stopped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=$root/quickstart
if [[ $# -gt 0 && $1 != -* ]]; then
  output=$1
  shift
fi
activate=
if [[ -z ${VIRTUAL_ENV:-} ]]; then
  activate=$root/.venv/bin/activate # what prepare_environment activates, for this script only
fi
# shellcheck source=scripts/environment.sh
source "$root/scripts/environment.sh"
prepare_environment "$root"

if [[ ! -f $output/data/manifest.json ]]; then
  mkdir -p "$output"
  echo "Preparing English prose from the Python installation (half a minute)"
  # Quiet: what to do next is printed below.
  electra-prepare --input=builtin:python-docs --learn_vocab=8192 --max_seq_length=128 --validation_fraction=0.02 \
    --output_dir="$output/data" --quiet
fi
electra-pretrain --config=tiny --config.data.dir="$output/data" --workdir="$output/run" --mode=train_and_eval "$@"

# from_here PATH: it as the user types it, relative to the current directory where it lies there.
from_here() {
  printf '%q' "${1#"$PWD"/}"
}

echo
if [[ -n $activate ]]; then
  echo "First:       source $(from_here "$activate")"
fi
cat <<END
Report:      electra-report $(from_here "$output/run")
Curves:      tensorboard --logdir=$(from_here "$output/run/tensorboard")
Your text:   electra-prepare --input=FILES --learn_vocab=30522 --output_dir=DATA
             electra-pretrain --config=small --config.data.dir=DATA --workdir=RUN --dry_run
             and the same without --dry_run, once you have seen what the run would take
END
