#!/usr/bin/env bash
# Trains several configs with equal training FLOPs on the same data, probes them on the way and fine-tunes them.
#
# usage: scripts/compare_objectives.sh --config=tiny --data=DATA --probes=FILE,FILE --num_steps=20000 --seeds=0,1
#            --output_dir=comparison [--against=PRESET_OR_FILE,...] [--finetune=CONFIG,...] [--config.KEY=VALUE ...]
#
# OUTPUT_DIR gets a workdir a run, comparison.md and comparison.svg. Started again, it resumes where it stopped.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/environment.sh
source "$root/scripts/environment.sh"
prepare_environment "$root"
exec python "$root/scripts/compare_objectives.py" "$@"
