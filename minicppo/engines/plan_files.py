"""The files that `minicppo plan --write` leaves: the resolved settings, a launch script, a SLURM and a Ray job."""

import stat
from pathlib import Path

from minicppo.engines.plan import as_shell
from minicppo.rl.config import RunConfig

HEAD = """#!/usr/bin/env bash
# {what}
"""

LAUNCH = """set -euo pipefail
here="$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)"
run="${{RUN_DIR:-$here/run}}" # a stopped run goes on from its newest checkpoint
export TOKENIZERS_PARALLELISM=false
if [[ -e "$run/config.yaml" ]]; then
  {start} resume "$run"
else
  {start} train "$here/config.yaml" --run-dir "$run"
fi
"""

SLURM = """#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
#SBATCH --time=7-00:00:00

set -euo pipefail
here="${{SLURM_SUBMIT_DIR:-$PWD}}"
"""

SLURM_RAY = """mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${{nodes[0]}}"
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{{print $1}}')"
export RAY_ADDRESS="$address:6379"
srun --nodes=1 --ntasks=1 --nodelist="$head" \\
  ray start --head --node-ip-address="$address" --port=6379 --num-gpus={gpus} --block &
sleep 20
srun --nodes={workers} --ntasks={workers} --exclude="$head" \\
  ray start --address="$RAY_ADDRESS" --num-gpus={gpus} --block &
sleep 20
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash "$here/launch.sh"
"""

SLURM_PLAIN = """srun bash "$here/launch.sh"
"""

RAY = """# The job runs on the cluster's head node; this folder travels with it, the package does not.
set -euo pipefail
here="$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)"
address="${{RAY_DASHBOARD:-http://127.0.0.1:8265}}"
ray job submit --address "$address" --working-dir "$here" {resources}-- \\
  env RUN_DIR="${{RUN_DIR:?set RUN_DIR to a folder that all nodes share}}" \
  ${{MINICPPO_DATA:+MINICPPO_DATA="$MINICPPO_DATA"}} bash launch.sh
"""


def plan_files(config: RunConfig) -> dict[str, str]:
    """The text of each file by its name. `slurm.sh` is for `sbatch` from the folder it is in."""
    cluster, name = config.cluster, f"{config.name}-{config.method.name}"
    single = cluster.nodes == 1 or config.engine != "verl"
    launcher = ["minicppo"]
    if config.engine == "trl" and cluster.gpus > 1:
        launcher = ["torchrun", f"--nproc-per-node={cluster.gpus_per_node}", "--no-python", *launcher]
    # verl asks Ray for its GPUs itself; the others run where the job's entry point does
    resources = "" if config.engine == "verl" else f"--entrypoint-num-gpus {cluster.gpus_per_node} "
    slurm = SLURM + (SLURM_PLAIN if single else SLURM_RAY)
    return {
        "config.yaml": config.to_yaml(),
        "launch.sh": HEAD.format(what=f"{name} on engine {config.engine}") + LAUNCH.format(start=as_shell(launcher)),
        "slurm.sh": HEAD.format(what=f"{name} as a SLURM job: sbatch slurm.sh, in this folder")
        + slurm.format(name=name, nodes=cluster.nodes, gpus=cluster.gpus_per_node, workers=cluster.nodes - 1),
        "ray-job.sh": HEAD.format(what=f"{name} as a Ray job: ./ray-job.sh") + RAY.format(resources=resources),
    }


def write_plan(config: RunConfig, folder: Path, force: bool = False) -> list[Path]:
    """Write `plan_files` into a folder and return their paths.

    Raises:
        FileExistsError: one of them is there already, unless `force`.
    """
    files = plan_files(config)
    taken = [name for name in files if (folder / name).exists()]
    if taken and not force:
        raise FileExistsError(f"{folder} already holds {', '.join(taken)}: give another folder, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return [folder / name for name in files]
