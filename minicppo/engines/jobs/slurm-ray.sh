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
environment="${ENVIRONMENT:-@environment}" # where ray and minicppo are installed; ENVIRONMENT=DIR for another
if ! command -v minicppo >/dev/null; then export PATH="$environment/bin:$PATH"; fi # of venv, conda, or any other
here="${SLURM_SUBMIT_DIR:-$PWD}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')"
export RAY_ADDRESS="$address:6379"
srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port=6379 --num-gpus=@gpus --block &
sleep 20
srun --nodes=@workers --ntasks=@workers --exclude="$head" \
  ray start --address="$RAY_ADDRESS" --num-gpus=@gpus --block &
sleep 20
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash "$here/launch.sh"
