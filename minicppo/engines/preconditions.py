"""What a run needs of the machine it starts on, each thing with the remedy where it is missing."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
from packaging.specifiers import SpecifierSet

from minicppo.engines import trl_settings, verl_settings
from minicppo.engines.memory import GB, GPUS
from minicppo.engines.plan import Plan, evaluated_problems
from minicppo.engines.tables import is_megatron
from minicppo.rl.config import RunConfig
from minicppo.rl.data import FOLDER_VARIABLE, SOURCES, SUFFIXES
from minicppo.rl.tasks.math import MathTask
from minicppo.text import install


@dataclass(frozen=True)
class Check:
    """One precondition. required: without it the engine cannot start; else it would fetch or wait."""

    name: str
    passed: bool
    found: str
    remedy: str
    required: bool = True


def preconditions(config: RunConfig, plan: Plan, run_dir: Path) -> list[Check]:
    """Every precondition of the run, checked here and now. Nothing is fetched and no engine is imported."""
    checks = [Check("engine", False, "cannot carry this", refusal) for refusal in plan.refusals]
    checks += _packages(config)
    if config.engine != "local":
        checks += [_gpus(config), *_fits(config, plan)]
    if config.engine == "verl":
        # verl 0.9.1 asks whatever TRL it finds for a class that TRL 1.16 no longer has, and stops
        found = _installed("trl")
        passed = found is None or SpecifierSet("<1.16").contains(found)
        checks += [Check("no new TRL beside verl", passed, found or "none", "pip uninstall trl, in verl's environment")]
        if config.cluster.nodes > 1:
            address, remedy = os.environ.get("RAY_ADDRESS"), "minicppo plan ... --write DIR, then sbatch DIR/slurm.sh"
            checks += [Check("a Ray cluster", bool(address), address or "RAY_ADDRESS is not set", remedy)]
    if config.model.source:
        checks += [_model(config)]
    task = config.make_task()
    if isinstance(task, MathTask):
        checks += map(_data, dict.fromkeys([task.data, *task.tests, *config.eval.data]))
    if plan.model:
        checks += [_disk(config, plan, run_dir)]
    return checks


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages(config: RunConfig) -> Iterator[Check]:
    """Each package with the versions that are wanted."""
    names = ("math-verify", "pyarrow", "rapidfuzz") if config.task.name == "math" else ()
    wanted = {name: ("", install("math")) for name in names}
    if config.engine == "trl":
        wanted["trl"] = (trl_settings.PIN, install("trl"))
    if config.engine == "verl":
        megatron = is_megatron(config.cluster)
        extras = f"vllm,{'megatron' if megatron else 'fsdp'}"
        remedy = f"in an environment of its own: pip install 'verl[{extras}]==0.9.1' -e '.[math]'"
        needs = {"verl": verl_settings.PIN, "transformers": ">=5.5.3,<5.11", "TransferQueue": ">=0.1.10"}
        needs |= dict.fromkeys(["vllm", "flash-attn", *(["megatron-core", "mbridge"] if megatron else [])], "")
        wanted |= {name: (versions, remedy) for name, versions in needs.items()}
    for name, (versions, remedy) in wanted.items():
        found = _installed(name)
        passed = found is not None and SpecifierSet(versions).contains(found, prereleases=True)
        yield Check(f"package {name}{versions}", passed, found or "not installed", remedy)


def _gpus(config: RunConfig) -> Check:
    count, wanted = torch.cuda.device_count(), config.cluster.gpus_per_node
    kinds = sorted({torch.cuda.get_device_name(i) for i in range(count)})
    found = f"{count} ({', '.join(kinds)})" if count else "none"
    name = f"{wanted} GPU{'s' if wanted > 1 else ''} on this node"
    fewer = f", or cluster.gpus_per_node={count}" if count else ""
    required = config.engine == "verl" or wanted > 1  # a small model trains under TRL on a CPU too
    return Check(name, count >= wanted, found, f"start it on such a node{fewer}", required)


def _fits(config: RunConfig, plan: Plan) -> Iterator[Check]:
    """Memory on each GPU, and room in the cache: for one sequence in a rollout engine, which lets the others wait.

    TRL's sampler cannot wait: all of a forward pass, and all answers of an evaluation, which its first process makes.
    """
    if not plan.peak:
        known = f"cluster.gpu to one of {', '.join(GPUS)}, model.path to a Qwen3 model, for an estimate"
        yield Check("GPU memory", False, "unknown model or GPU", f"set {known}", required=False)
        return
    need, have, kind = max(plan.peak.values()) / GB, plan.capacity / GB, plan.gpu
    if torch.cuda.is_available():  # a smaller one than is planned with counts
        found = torch.cuda.get_device_properties(0)
        if found.total_memory / GB < have:
            have, kind = found.total_memory / GB, found.name
    room, fit = int(plan.cache["at a time"]), int(plan.cache["room"] // plan.cache["a sequence"])
    size, samples, prompts = config.rollout.group_size, config.eval.samples, config.rollout.prompts
    if config.engine == "verl":
        more = "more GPUs, cluster.offload=true, a smaller cluster.rollout_memory or train.micro_batch, or a larger GPU"
        wanted, remedy = 1, "a larger cluster.rollout_memory or cluster.rollout_tensor_parallel"
    else:
        more = "a larger GPU, a smaller train.micro_batch, or --engine verl, which splits the model over the GPUs"
        wanted = min((config.rollout.batch or prompts) * size, -(-prompts * size // config.cluster.gpus))
        remedy = f"rollout.batch={room // size}" if room >= size else "a larger GPU, or fewer max_new_tokens"
    yield Check(f"GPU memory, {need:.0f} GB", need <= have, f"{have:.0f} GB of {kind}", more)
    name = f"KV cache, {wanted} sequence{'s' if wanted > 1 else ''} at a time"
    yield Check(name, room >= wanted, f"room for {room}", remedy)
    if config.engine == "trl":
        wanted = (config.eval.batch or evaluated_problems(config)) * samples
        remedy = f"eval.batch={fit // samples}" if fit >= samples else "a larger GPU, or fewer eval.samples"
        yield Check(f"KV cache of an evaluation, {wanted} answers at a time", fit >= wanted, f"room for {fit}", remedy)


def _model(config: RunConfig) -> Check:
    if config.model.hub is None:
        return Check("model files", True, str(config.model.path), "")
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(config.model.hub, "config.json"), str)
    found = "in the hub's cache" if cached else "not fetched yet"
    return Check("model files", cached, found, f"hf download {config.model.hub}", required=False)


def _data(name: str) -> Check:
    folder, source = os.environ.get(FOLDER_VARIABLE), SOURCES.get(name)
    if source and folder:
        there = (Path(folder).expanduser() / source.file).is_file()
        remedy = f"put {source.file} into {folder}, or unset {FOLDER_VARIABLE}"
        return Check(f"data {name}", there, source.file if there else f"not in {folder}", remedy)
    if name.endswith(SUFFIXES):
        present = Path(name).expanduser().is_file()
        return Check(f"data {name}", present, "there" if present else "no such file", "give an existing file")
    remedy = f"set {FOLDER_VARIABLE} to a folder with its files, or {install('math')} to fetch it from the hub"
    installed = find_spec("datasets") is not None
    return Check(f"data {name}", installed, "from the hub, if it can be reached" if installed else "no source", remedy)


def _disk(config: RunConfig, plan: Plan, run_dir: Path) -> Check:
    """Room for the model's files and for checkpoints with optimiser state, one more than are kept."""
    parameters = plan.model["parameters"]
    need = 2 * parameters + 14 * parameters * (config.train.keep_checkpoints + 1)
    folder = next(parent for parent in (run_dir.absolute(), *run_dir.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    remedy = "another --run-dir, or a smaller train.keep_checkpoints"
    return Check(f"disk, {need / GB:.0f} GB", free >= need, f"{free / GB:.0f} GB in {folder}", remedy)
