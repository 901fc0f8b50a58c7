"""Kinds of cases of `experiments.fuzz`: folders of models, log-probs through every rule, full disks and killed runs."""

import json
import math
import multiprocessing
import random
import resource
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from experiments.architectures import DECODERS, ENCODERS, tiny_policy
from minicppo.rl.config import load_config
from minicppo.rl.log_probs import require_agreement, response_log_probs
from minicppo.rl.policy import load_policy, save_policy
from minicppo.rl.sampling import sample
from minicppo.rl.trainer import train, train_or_resume
from minicppo.rules import METHODS, TokenBatch, TopLogProbs, policy_loss

Case = tuple[object, Callable[[], object]]  # the input, and what may not fail
TINY = """task={name: chain, options: {steps: 1}}|model={hidden_size: 16, intermediate_size: 16, layers: 1, heads: 2}
|rollout={prompts: 2, group_size: 2}|train.iterations=2|train.minibatches=2|train.checkpoint_every=1|warmup=null
|eval={every: 1, problems: 4, samples: 1}|device=cpu""".replace("\n", "").split("|")
CHANGES: dict[str, list[Any]] = {  # of config.json and generation_config.json; not all of them can work
    "vocab_size": [8, 15, 17, 40],
    "max_position_embeddings": [1, 4, 24, 10**6],
    "eos_token_id": [None, 0, 5, [1, 5], [], 99, -1],
    "rope_parameters": [{"rope_type": name, "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
                        for name in ("linear", "dynamic", "yarn", "default", "nonsense")],
    "tie_word_embeddings": [True, False],
    "num_hidden_layers": [1, 3],
    "torch_dtype": ["bfloat16", "float64"],
    "model_type": ["llama", "bert", "t5", "gpt2", "none", 3],
    "is_decoder": [True, False],
    "final_logit_softcapping": [None, 5.0],
    "sliding_window": [None, 2],
    "bos_token_id": [None, 3],
}  # fmt: skip


def models(rng: random.Random, folder: Path) -> Case:
    """A model's folder, changed or not: refused in a line, or sampled and scored alike, by its own tokens."""
    name = rng.choice([*DECODERS, *ENCODERS])
    key = rng.choice(list(CHANGES))
    value = rng.choice(CHANGES[key])
    how = rng.choice(["whole", "config", "generation", "weights", "more", "tokens", "cut"])
    width, seed = rng.choice([1, 6, 30]), rng.random()

    def check() -> None:
        whole, path = folder / "models" / name, folder / "model"
        if not whole.exists():
            save_policy(tiny_policy(name), whole)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole, path)
        damage(path, how, key, value, random.Random(seed))
        try:
            policy = load_policy(path)
            prompts = [policy.encode("abcdefgh"), policy.encode("m")]
            rollout = sample(policy, prompts, width, 1.0, torch.Generator().manual_seed(0), samples=2)
            require_agreement(policy, policy, rollout, 1.0)
        except ValueError as error:
            expect(how != "whole" or name in ENCODERS, f"refused: {error}")
            return expect(len(str(error).splitlines()) == 1 and "Way out: " in str(error), f"no way out: {error}")
        assert name not in ENCODERS or (how, key) == ("config", "is_decoder"), "an encoder was sampled"
        assert how not in ("weights", "more", "cut"), f"it was taken with {how}"
        ids, valid = rollout.response_ids, rollout.response_mask
        with torch.no_grad():
            gap = (response_log_probs(policy, rollout, 1.0).log_probs - rollout.log_probs)[valid].abs().max()
        assert gap <= 1e-4, f"sampler and scorer are {gap:.2g} apart"
        assert int(ids[valid].max()) < len(policy.tokenizer), "an id without a token"
        ends = torch.isin(ids, torch.tensor(policy.ends)) & valid
        assert not (ends.sum(1) > ends.gather(1, valid.sum(1, keepdim=True) - 1)[:, 0]).any(), "it goes on after an end"

    return (name, how, key, value, width, seed), check


def damage(path: Path, how: str, key: str, value: Any, rng: random.Random) -> None:
    """Change a model's folder in one way."""
    weights = path / "model.safetensors"
    if how in ("config", "generation"):
        file = path / ("config.json" if how == "config" else "generation_config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    elif how == "tokens":
        file = path / "tokenizer.json"
        tree = json.loads(file.read_text())
        tree["model"]["vocab"][rng.choice(["ab", "<s>"])] = rng.choice([3, 16, 40])
        file.write_text(json.dumps(tree))
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[: rng.randrange(weights.stat().st_size)])
    elif how in ("weights", "more"):
        tensors = load_file(weights)
        name = rng.choice(sorted(tensors))
        change = rng.choice(["gone", "shape", "nan"]) if how == "weights" else "more"
        if change == "gone":
            del tensors[name]
        else:
            old = tensors[name]
            changed = torch.cat([old, old]) if change == "shape" else old * math.nan
            tensors[name if change != "more" else f"{name}.more"] = changed
        save_file({k: v.contiguous() for k, v in tensors.items()}, weights, metadata={"format": "pt"})


def log_probs(rng: random.Random, folder: Path) -> Case:
    """Extreme log-probs through a rule: refused by name, or finite weights, none on what does not count."""
    name, rows, width, vocabulary = rng.choice(sorted(METHODS)), rng.randint(1, 4), rng.randint(1, 6), 5
    values = [0.0, -1e-30, -1e-6, -0.5, -3.0, -40.0, -1e4, -1e30, *[rng.uniform(-9, 0)] * 6]
    if rng.random() < 0.2:
        values += [math.nan, -math.inf, 1e-9, 5.0]
    pi, mu = ([[rng.choice(values) for _ in range(width)] for _ in range(rows)] for _ in range(2))
    advantages = [rng.choice([0.0, 1.0, -1.0, 1e-30, -1e4, 0.5]) for _ in range(rows)]
    mask = [[rng.random() < 0.7 for _ in range(width)] for _ in range(rows)]
    spread, seed = rng.choice([0.0, 1.0, 60.0]), rng.randrange(2**32)

    def check() -> None:
        generator, method = torch.Generator().manual_seed(seed), METHODS[name]
        ours, theirs, valid = torch.tensor(pi).requires_grad_(), torch.tensor(mu), torch.tensor(mask)
        top = None
        if method.needs != "log_probs":
            logits = spread * torch.randn(2, rows, width, vocabulary, generator=generator)
            both, ids = logits.log_softmax(-1), torch.randint(vocabulary, (rows, width), generator=generator)
            order = both[1].argsort(-1, descending=True)[..., :3] if method.needs == "topk" else None
            kept = both if order is None else torch.stack([each.gather(-1, order) for each in both])
            ours = both[0].gather(-1, ids[..., None])[..., 0].requires_grad_()
            theirs, top = both[1].gather(-1, ids[..., None])[..., 0], TopLogProbs(kept[0], kept[1], ids, order)
        try:
            batch = TokenBatch(ours, theirs, torch.tensor(advantages), valid, top)
        except ValueError as error:
            return expect(len(str(error).splitlines()) == 1, f"many lines: {error}")
        weights = method(batch).weight
        assert torch.isfinite(weights).all(), "a weight that is not finite"
        assert not weights[~valid].any(), "a weight where nothing counts"
        loss = policy_loss(ours, weights, torch.tensor(advantages), valid, horizon=width)
        (slope,) = torch.autograd.grad(loss, ours)
        assert torch.isfinite(slope[valid]).all(), "a gradient that is not finite"

    return (name, pi, mu, advantages, mask, spread, seed), check


@lru_cache
def whole_run(folder: Path) -> bytes:
    """The log of a run that nothing happened to."""
    return (train(load_config("learn", TINY), folder / "unbroken") / "metrics.jsonl").read_bytes()


def full_disk(rng: random.Random, folder: Path) -> Case:
    """A run whose files may grow to so many bytes: an error, and as if nothing had happened once there is room."""
    whole_run(folder)
    sizes = sorted({path.stat().st_size for path in (folder / "unbroken").rglob("*") if path.is_file()})
    room = max(1, rng.choice(sizes) + rng.choice([-1, 0, 1, rng.randint(-500, 500)]))

    def check() -> None:
        run, (soft, hard) = folder / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
        shutil.rmtree(run, ignore_errors=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            train(load_config("learn", TINY), run)
        except Exception as error:
            expect("File too large" in str(error), f"another error: {type(error).__name__}: {error}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        require_same(run, whole_run(folder))

    return room, check


@lru_cache
def seconds_of_a_run(folder: Path) -> float:
    """How long it takes where everything is loaded already, as it is in a fork."""
    whole_run(folder)
    begun = time.perf_counter()
    train(load_config("learn", TINY), folder / "timed")
    return time.perf_counter() - begun


def killed(rng: random.Random, folder: Path) -> Case:
    """A run that is killed (-9) at some moment, given as a share of the time that it takes, and resumed."""
    whole, share = whole_run(folder), rng.uniform(0, 1.2)

    def check() -> None:
        run = folder / "killed"
        shutil.rmtree(run, ignore_errors=True)
        child = multiprocessing.get_context("fork").Process(target=train, args=(load_config("learn", TINY), run))
        child.start()
        child.join(share * seconds_of_a_run(folder))
        child.kill()
        child.join()
        require_same(run, whole)

    return share, check


def expect(true: bool, what: str) -> None:
    if not true:
        raise AssertionError(what)


def require_same(run: Path, log: bytes) -> None:
    """Resumed, or begun anew where nothing was there, a run ends with these bytes, and leaves nothing half-written."""
    found = run / "metrics.jsonl"
    assert not found.exists() or len(found.read_bytes()) <= len(log), "it logged more than there is"
    train_or_resume(load_config("learn", TINY), run)
    assert found.read_bytes() == log, "it ended otherwise"
    left = [path.name for path in run.rglob(".*") if path.name != ".lock"]
    assert not left, f"left behind: {left}"
