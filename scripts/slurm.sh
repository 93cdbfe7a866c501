#!/usr/bin/env bash
# Trains on several nodes under Slurm, one process a node with all its GPUs. Put into a queue again when preempted.
#
# usage: sbatch --nodes=4 --gpus-per-node=8 scripts/slurm.sh --config=base --config.data.dir=data --workdir=run [...]
#
# DATA and RUN must lie where all nodes see them. ENVIRONMENT (default .venv) is the virtual environment.
#SBATCH --job-name=electra-pretrain
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
# Tell the tasks 120 seconds before the time is over, so that they save; the job is put into the queue again below.
#SBATCH --signal=TERM@120
#SBATCH --output=electra-pretrain-%j.log
#SBATCH --open-mode=append
set -uo pipefail

environment=${ENVIRONMENT:-.venv}
if [[ -f $environment/bin/activate ]]; then
  # shellcheck source=/dev/null
  source "$environment/bin/activate"
fi

# Every task finds the others, and its place among them, in Slurm's variables. One that dies ends the others.
srun --kill-on-bad-exit=0 --wait=120 electra-pretrain "$@"
code=$?
if [[ $code -eq 75 ]]; then
  echo "slurm: stopped and saved; back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
