"""What a run would start, hold and take, from its configuration alone: no GPU and no engine is needed."""

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minicppo.engines import memory, verl_config
from minicppo.engines.memory import Assumptions, Load, architecture_of
from minicppo.engines.trl_settings import WITHOUT_EFFECT, micro_batches, trl_settings
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rules import get_method

SIZES = {"aime24": 30, "aime25": 30, "aime26": 30, "math-500": 500, "gsm8k-test": 1319}  # problems of the test sets


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
    model: dict[str, float]
    state: dict[str, float]
    training: dict[str, float]
    peak: dict[str, float]
    capacity: float
    cache: dict[str, float]
    cells: dict[str, float]
    tokens: dict[str, float]
    hours: dict[str, float]
    assumptions: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain data, every table included."""
        return asdict(self)


def make_plan(config: RunConfig, run_dir: Path, typed: list[str]) -> Plan:
    """The plan of a run. `typed`: preset, options and overrides, as they follow `minicppo train`."""
    refusals = refusals_of(config)
    command = launch_command(config, typed)
    settings = {} if refusals else _settings(config, run_dir)
    resolved = [] if refusals else command
    if settings and config.engine == "verl":
        resolved = ["python", "-m", "verl.trainer.main_ppo", *verl_config.verl_overrides(config, run_dir)]
    load, assumed = load_of(config), Assumptions()
    gpu = memory.GPUS.get(config.cluster.gpu)
    return Plan(
        name=config.name,
        engine=config.engine,
        method=config.method.name,
        gpu=config.cluster.gpu,
        gpus=config.cluster.gpus,
        command=command,
        resolved=resolved,
        settings=settings,
        refusals=refusals,
        model=_model(load) if load else {},
        state=memory.state_bytes(load) if load else {},
        training=memory.training_bytes(load) if load else {},
        peak=memory.peak_bytes(load) if load else {},
        capacity=gpu.memory if gpu else 0.0,
        cache=memory.cache(load) if load else {},
        cells=memory.cell_bytes(load) if load and load.cells else {},
        tokens=_tokens(config, assumed),
        hours=_hours(config, load, assumed) if load else {},
        assumptions=asdict(assumed),
    )


def load_of(config: RunConfig) -> Load | None:
    """What the estimates need of a configuration; None for a model or GPU they do not know."""
    model, gpu = architecture_of(config.model.source), memory.GPUS.get(config.cluster.gpu)
    if model is None or gpu is None or config.engine == "local":
        return None
    cluster, verl = config.cluster, config.engine == "verl"
    return Load(
        model=model,
        gpu=gpu,
        gpus=cluster.gpus,
        responses=config.rollout.prompts * config.rollout.group_size,
        horizon=config.max_new_tokens(config.make_task()),
        prompt=cluster.max_prompt_tokens,
        micro_tokens=verl_config.tokens_per_gpu(config),
        replica=cluster.rollout_tensor_parallel if verl else 1,
        kv_share=cluster.rollout_memory,
        tensor=cluster.tensor_parallel,
        pipeline=cluster.pipeline_parallel,
        expert=cluster.expert_parallel,
        whole=not verl,
        offload=cluster.offload and verl,
        at_once=0 if verl else (config.rollout.batch or 0) * config.rollout.group_size,
        cells=config.rollout.cells if get_method(config.method.name, **config.method.params).needs == "topk" else 0,
    )


def launch_command(config: RunConfig, typed: list[str]) -> list[str]:
    """What the user types: under TRL one process a GPU, under verl one process, which starts the others."""
    run = ["minicppo", "train", *typed]
    if config.engine == "trl" and config.cluster.gpus > 1:
        return ["torchrun", f"--nproc-per-node={config.cluster.gpus_per_node}", "--no-python", *run]
    return run


def refusals_of(config: RunConfig) -> list[str]:
    """Why the engine cannot carry the run, one line each; empty if it can."""
    if config.engine == "trl":
        return _trl_refusals(config)
    if config.engine == "verl":
        try:
            verl_config.require_verl(config)
        except ConfigError as error:
            return str(error).splitlines()
    return []


def _trl_refusals(config: RunConfig) -> list[str]:
    cluster, train = config.cluster, config.train
    horizon = config.max_new_tokens(config.make_task())
    wrong = []
    if cluster.nodes > 1 or verl_config.is_megatron(config):
        wrong.append("it puts a whole model on each GPU of one node: use --engine verl, or cluster={nodes: 1}")
    if train.staleness:
        wrong.append(f"train.staleness = {train.staleness} is only for engine local: set train.staleness=0")
    if train.loss_agg_mode == "seq-mean-token-sum-norm" and train.horizon not in (None, horizon):
        wrong.append(f"train.horizon = {train.horizon}, but it divides by max_new_tokens = {horizon}: set it to null")
    if config.rollout.autocast != "same":
        wrong.append(f"rollout.autocast = {config.rollout.autocast}, but it samples as it scores: set it to same")
    if cluster.offload:
        wrong.append("cluster.offload = true, but it keeps the training state on the GPU: set it to false")
    for override in cluster.overrides:
        if override.partition("=")[0] in WITHOUT_EFFECT:
            wrong.append(f"cluster.overrides: {override} would change nothing: set train.lr and its neighbours")
    responses, rows, accumulation = micro_batches(config, cluster.gpus)
    if rows * accumulation * cluster.gpus != responses:
        wrong.append(
            f"{responses} responses an update do not split into micro-batches of {rows} on {cluster.gpus} GPUs: set "
            "train.micro_batch to a divisor"
        )
    if get_method(config.method.name, **config.method.params).needs == "full" and architecture_of(config.model.source):
        wrong.append(
            f"method {config.method.name} keeps whole distributions, 151,936 log-probs a token: use "
            f"--method {verl_config.closest_variant(config.method.name, 'topk', 'log_probs')}"
        )
    return [f"engine trl: {text}" for text in wrong]


def _settings(config: RunConfig, run_dir: Path) -> dict[str, str]:
    """The engine's own settings, by name."""
    if config.engine == "verl":
        pairs = (text.partition("=") for text in verl_config.verl_overrides(config, run_dir))
        return {key: value for key, _, value in pairs}
    if config.engine == "local":
        return {}
    on_gpus = config.model_copy(update={"device": "cuda"})
    return {key: str(value) for key, value in trl_settings(on_gpus, run_dir, config.cluster.gpus).items()}


def _model(load: Load) -> dict[str, float]:
    return {
        "parameters": load.model.parameters,
        "active a token": load.model.active,
        "checkpoint bytes": 2.0 * load.model.parameters,
    }


def _tokens(config: RunConfig, assumed: Assumptions) -> dict[str, float]:
    rollout, train = config.rollout, config.train
    responses = rollout.prompts * rollout.group_size
    horizon = config.max_new_tokens(config.make_task())
    return {
        "prompts a rollout batch": rollout.prompts,
        "responses a rollout batch": responses,
        "updates a rollout batch": train.minibatches * train.epochs,
        "rollout batches": train.iterations,
        "updates in all": train.iterations * train.minibatches * train.epochs,
        "tokens a rollout batch, at most": responses * horizon,
        "tokens a rollout batch, assumed": responses * horizon * assumed.mean_length,
        "tokens an update, at most": responses * horizon // train.minibatches,
    }


def evaluated_problems(config: RunConfig) -> int:
    """Problems of one evaluation; a set of unknown size counts as `eval.problems`."""
    return sum(SIZES.get(name, config.eval.problems) for name in config.eval.data) or config.eval.problems


def _hours(config: RunConfig, load: Load, assumed: Assumptions) -> dict[str, float]:
    """Hours on the clock of one rollout batch's halves, and of the run; GPU-hours of the run."""
    iterations = config.train.iterations
    problems, samples = evaluated_problems(config), config.eval.samples
    evaluations = -(-iterations // config.eval.every) + 1
    generation = memory.generation_seconds(load, load.responses, assumed)
    training = memory.training_seconds(load, config.train.epochs, assumed)
    if load.whole:  # the first process evaluates, greedily too, and the others wait
        load = replace(load, gpus=1, at_once=(config.eval.batch or problems) * samples)
        evaluation = sum(memory.generation_seconds(load, n, assumed) for n in (problems * samples, problems))
    else:
        evaluation = memory.generation_seconds(load, problems * samples, assumed)
    total = (iterations * (generation + training) + evaluations * evaluation) / 3600
    return {
        "seconds of sampling a rollout batch": generation,
        "seconds of updates with it": training,
        "seconds of an evaluation": evaluation,
        "evaluations": evaluations,
        "hours in all": total,
        "GPU-hours in all": total * config.cluster.gpus,
    }


def as_shell(arguments: list[str]) -> str:
    """A command as one would type it, quoted where that is needed."""
    return shlex.join(arguments)
