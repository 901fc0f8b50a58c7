"""The files that `minicppo plan --write` leaves: the resolved settings, a launch script, a SLURM and a Ray job."""

import re
import shlex
import sys
from pathlib import Path
from string import Template

from minicppo.engines.plan import launch_command
from minicppo.files import write_atomically
from minicppo.rl.config import RunConfig

JOBS = Path(__file__).parent / "jobs"


class _Script(Template):
    """A shell script with @names, which a shell leaves alone."""

    delimiter = "@"


def plan_files(config: RunConfig) -> dict[str, str]:
    """The text of each file by its name. `slurm.sh` is for `sbatch` from the folder it is in."""
    cluster = config.cluster
    values = {
        "name": re.sub(r"[^\w.+-]", "_", f"{config.name}-{config.method.name}", flags=re.ASCII),  # never shell text
        "engine": config.engine,
        "environment": shlex.quote(sys.prefix),
        "start": shlex.join(launch_command(config, [])),
        "plugins": "".join(f" --plugin {shlex.quote(file)}" for file in config.plugins),
        "nodes": cluster.nodes,
        "workers": cluster.nodes - 1,
        "gpus": cluster.gpus_per_node,
        # verl asks Ray for its GPUs itself; the others run where the job's entry point does
        "resources": "" if config.engine == "verl" else f"--entrypoint-num-gpus {cluster.gpus_per_node} ",
    }
    ray = "-ray" if cluster.nodes > 1 and config.engine == "verl" else ""
    files = {"config.yaml": config.to_yaml()}
    for name, script in (("launch.sh", "launch.sh"), ("slurm.sh", f"slurm{ray}.sh"), ("ray-job.sh", "ray-job.sh")):
        files[name] = _Script((JOBS / script).read_text(encoding="utf-8")).substitute(values)
    return files


def write_plan(config: RunConfig, folder: Path, force: bool = False) -> list[Path]:
    """Write `plan_files` into a folder, as `write_files` does."""
    return write_files(plan_files(config), folder, force)


def write_files(texts: dict[str, str], folder: Path, force: bool) -> list[Path]:
    """Write each text under its name; scripts may then be run. Raises FileExistsError: one is there, unless `force`."""
    files = {folder / name: text for name, text in texts.items()}
    taken = [path.name for path in files if path.exists()]
    if taken and not force:
        raise FileExistsError(f"{folder} already holds {', '.join(taken)}: give another folder, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_atomically(path, text.encode())  # a link is replaced, not followed
        if path.suffix == ".sh":
            path.chmod(0o755)
    return list(files)
