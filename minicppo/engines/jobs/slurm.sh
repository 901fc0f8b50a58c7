#!/usr/bin/env bash
# @name as a SLURM job: sbatch slurm.sh, in this folder
#SBATCH --job-name=@name
#SBATCH --nodes=@nodes
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=@gpus
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
#SBATCH --time=7-00:00:00

set -euo pipefail
here="${SLURM_SUBMIT_DIR:-$PWD}"
srun bash "$here/launch.sh"
