#!/usr/bin/env bash
# Trains ELECTRA and masked language modeling with equal training FLOPs on the same data, and probes both on the way.
#
# usage: scripts/compare_objectives.sh --config=tiny --data=DATA --probes=FILE,FILE --num_steps=20000 --seeds=0,1
#            --output_dir=comparison [--config.KEY=VALUE ...]
#
# OUTPUT_DIR gets a workdir a run, comparison.md and comparison.svg. Started again, it resumes where it stopped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$root/scripts/environment.sh"
prepare_environment "$root"
exec python "$root/scripts/compare_objectives.py" "$@"
