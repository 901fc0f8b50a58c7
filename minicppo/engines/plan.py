"""What a run would start, hold and take, from its configuration alone: no GPU and no engine is needed.

And the files that `minicppo plan --write` leaves: the resolved settings, a launch script, a SLURM and a Ray job.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

from minicppo.engines import memory
from minicppo.engines.memory import ASSUMED, Load
from minicppo.engines.refusals import refusals
from minicppo.engines.tables import longest_response
from minicppo.engines.trl_settings import trl_settings
from minicppo.engines.verl_settings import verl_overrides
from minicppo.files import write_atomically
from minicppo.rl.config import RunConfig

SIZES = {"aime24": 30, "aime25": 30, "aime26": 30, "math-500": 500, "gsm8k-test": 1319}  # problems of the test sets
JOBS = Path(__file__).parent / "jobs"
Table = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """One run on one engine.

    command: what to type. resolved: what that starts. refusals: why the engine cannot carry the run, with ways out;
    `resolved` and `settings` are then empty. Bytes are of one GPU unless the key says otherwise; tables that need the
    model's architecture are empty where that is unknown. hours: of all GPUs together, times GPUs.
    """

    name: str
    engine: str
    method: str
    gpu: str
    gpus: int
    command: list[str]
    resolved: list[str]
    settings: dict[str, str]
    refusals: list[str]
    model: Table
    state: Table
    training: Table
    peak: Table
    capacity: float
    cache: Table
    top_log_probs: Table
    tokens: Table
    hours: Table
    assumptions: Table


def make_plan(config: RunConfig, run_dir: Path, typed: list[str]) -> Plan:
    """The plan of a run. `typed`: preset, options and overrides, as they follow `minicppo train`."""
    command, refused = launch_command(config, ["train", *typed]), refusals(config)
    gpu = memory.GPUS.get(config.cluster.gpu)
    settings, resolved = ({}, []) if refused else _started(config, run_dir, command)
    return Plan(
        name=config.name,
        engine=config.engine,
        method=config.method.name,
        gpu=config.cluster.gpu,
        gpus=config.cluster.gpus,
        command=command,
        resolved=resolved,
        settings=settings,
        refusals=refused,
        capacity=gpu.memory if gpu else 0.0,
        tokens=_tokens(config),
        assumptions=ASSUMED,
        **_estimates(config),
    )


def launch_command(config: RunConfig, arguments: list[str]) -> list[str]:
    """What the user types: under TRL one process a GPU, under verl one process, which starts the others."""
    many = config.engine == "trl" and config.cluster.gpus > 1
    torchrun = ["torchrun", f"--nproc-per-node={config.cluster.gpus_per_node}", "--no-python"] if many else []
    return [*torchrun, "minicppo", *arguments]


def _started(config: RunConfig, run_dir: Path, command: list[str]) -> tuple[dict[str, str], list[str]]:
    """The engine's own settings by name, and the command that starts it."""
    if config.engine == "verl":
        overrides = verl_overrides(config, run_dir)
        values = dict(text.partition("=")[::2] for text in overrides)
        return values, ["python", "-m", "verl.trainer.main_ppo", *overrides]
    if config.engine == "local":
        return {}, command
    on_gpus = config.model_copy(update={"device": "cuda"})
    return {key: str(value) for key, value in trl_settings(on_gpus, run_dir, config.cluster.gpus).items()}, command


def _tokens(config: RunConfig) -> Table:
    rollout, train = config.rollout, config.train
    responses = rollout.prompts * rollout.group_size
    most = responses * longest_response(config)
    return {
        "prompts a rollout batch": rollout.prompts,
        "responses a rollout batch": responses,
        "updates a rollout batch": train.minibatches * train.epochs,
        "rollout batches": train.iterations,
        "updates in all": train.iterations * train.minibatches * train.epochs,
        "tokens a rollout batch, at most": most,
        "tokens a rollout batch, assumed": most * ASSUMED["mean_length"],
        "tokens an update, at most": most // train.minibatches,
    }


def _estimates(config: RunConfig) -> dict[str, Table]:
    """The tables that need the model's architecture."""
    load = memory.load_of(config)
    if load is None:
        return {name: {} for name in ("model", "state", "training", "peak", "cache", "top_log_probs", "hours")}
    model, checkpoint = load.model, 2.0 * load.model.parameters
    return {
        "model": {"parameters": model.parameters, "active a token": model.active, "checkpoint bytes": checkpoint},
        "state": memory.state_bytes(load),
        "training": memory.training_bytes(load),
        "peak": memory.peak_bytes(load),
        "cache": memory.cache(load),
        "top_log_probs": memory.top_log_prob_bytes(load) if load.top_log_probs else {},
        "hours": _hours(config, load),
    }


def evaluated_problems(config: RunConfig) -> int:
    """Problems of one evaluation; a set of unknown size counts as `eval.problems`."""
    return sum(SIZES.get(name, config.eval.problems) for name in config.eval.data) or config.eval.problems


def _hours(config: RunConfig, load: Load) -> Table:
    """Hours on the clock of one rollout batch's halves, and of the run; GPU-hours of the run."""
    iterations, problems, samples = config.train.iterations, evaluated_problems(config), config.eval.samples
    evaluations = -(-iterations // config.eval.every) + 1
    generation = memory.generation_seconds(load, load.responses / load.replicas, load.at_once)
    training = memory.training_seconds(load, config.train.epochs)
    if load.whole:  # the first process evaluates, greedily too, and the others wait
        at_once = (config.eval.batch or problems) * samples
        evaluation = sum(memory.generation_seconds(load, n, at_once) for n in (problems * samples, problems))
    else:
        evaluation = memory.generation_seconds(load, problems * samples / load.replicas, 0)
    total = (iterations * (generation + training) + evaluations * evaluation) / 3600
    return {
        "seconds of sampling a rollout batch": generation,
        "seconds of updates with it": training,
        "seconds of an evaluation": evaluation,
        "evaluations": evaluations,
        "hours in all": total,
        "GPU-hours in all": total * config.cluster.gpus,
    }


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
