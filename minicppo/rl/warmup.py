"""The supervised warm-up: an imperfect policy to start from, trained once and reused by every run that asks for it.

The policy imitates demonstrations in which each step is wrong at a set rate. Its greedy answers are right long before
its samples are: what reinforcement learning removes afterwards is mostly the demonstrations' noise.
"""

import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from minicppo.files import atomically, cache_dir, digest
from minicppo.rl.config import RunConfig
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, build_policy, load_policy, model_folder, require_room, save_policy
from minicppo.rl.rollout import Rollout, grade
from minicppo.rl.sampling import pad, sample
from minicppo.rl.sections import WarmupConfig
from minicppo.rl.seeding import rng_for
from minicppo.rl.tasks import TASKS, Task, sample_problems

RECIPE = 1  # raise it when the code below changes what it trains
Progress = Callable[[int, float], None]  # (steps done, greedy accuracy so far)


def initial_policy(config: RunConfig, task: Task, on_progress: Progress | None = None) -> Policy:
    """The policy that a run starts from, on the CPU: as built or loaded, or warmed up (from the cache if it is there).

    Raises RuntimeError where the warm-up does not reach its target within `warmup.max_steps`.
    """
    if config.warmup is None:
        return build_policy(config.model, task, config.seed)
    torch.set_num_threads(config.threads)
    folder = cache_dir() / f"warmup-{warmup_key(config)}"
    if not folder.is_dir():
        policy = build_policy(config.model, task, config.warmup.seed)
        _train(policy, task, config.warmup, config.max_new_tokens(task), on_progress)
        with atomically(folder, shared=True) as scratch:
            save_policy(policy, scratch)
            (scratch / "identity.json").write_text(json.dumps(warmup_identity(config), indent=1))
    return load_policy(folder, chat=config.model.chat)


def warmup_identity(config: RunConfig) -> dict[str, Any]:
    """Everything that determines the warmed-up weights."""
    identity = config.model_dump(include={"model", "task", "warmup", "threads"}) | {
        "recipe": RECIPE,
        "max_new_tokens": config.rollout.max_new_tokens,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if config.model.path is not None:  # what is there, not where it is
        files = sorted(path for path in model_folder(config.model.path).iterdir() if path.is_file())
        content = "".join(f"{file.name} {digest(file)}" for file in files)
        identity["model"]["path"] = hashlib.sha256(content.encode()).hexdigest()[:16]
    source = sys.modules[TASKS[config.task.name].__module__]
    if source.__file__ is not None and not source.__name__.startswith("minicppo."):  # a plugin's: its content counts
        identity["plugin"] = digest(Path(source.__file__))
    return identity


def warmup_key(config: RunConfig) -> str:
    return hashlib.sha256(json.dumps(warmup_identity(config), sort_keys=True).encode()).hexdigest()[:16]


def _train(policy: Policy, task: Task, config: WarmupConfig, limit: int, on_progress: Progress | None) -> None:
    rng = rng_for(config.seed, "warmup")
    probe = sample_problems(task, 128, rng_for(config.seed, "warmup-probe"), "train")
    prompts = [policy.encode(problem.prompt) for problem in probe]
    optimizer = torch.optim.AdamW(
        policy.model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    accuracy, reached = 0.0, None
    for step in range(1, config.max_steps + config.anneal + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, step / 50)
            if reached is not None:
                group["lr"] *= 1 - (step - reached) / (config.anneal + 1)
        batch = demonstrations(policy, task, config.batch, rng, config.error_rate)
        loss = -response_log_probs(policy, batch, 1.0).log_probs[batch.response_mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        if reached is None and (step % config.check_every == 0 or step == config.max_steps):
            greedy = sample(policy, prompts, limit, 1.0, None)
            accuracy = float(grade(policy, task, probe, greedy).rewards.mean())
            if accuracy >= config.target:
                reached = step
            elif step >= config.max_steps:
                break
        if on_progress is not None:
            on_progress(step, accuracy)
        if reached is not None and step == reached + config.anneal:
            return
    raise RuntimeError(
        f"the warm-up reached a greedy accuracy of {accuracy:.2f} in {config.max_steps} steps, below warmup.target = "
        f"{config.target}: raise warmup.max_steps, try another warmup.seed, or make the task easier"
    )


def demonstrations(policy: Policy, task: Task, n: int, rng: random.Random, error_rate: float) -> Rollout:
    """`n` demonstrations of training problems as a rollout (with log-probs of 0)."""
    problems = sample_problems(task, n, rng, "train")
    prompts = [policy.encode(problem.prompt) for problem in problems]
    responses = [
        policy.tokenizer(task.demonstration(problem, rng, error_rate), add_special_tokens=False)["input_ids"]
        + [policy.eos_id]
        for problem in problems
    ]
    prompt_ids, prompt_mask = pad(prompts, policy.pad_id, policy.device, left=True)
    ids, mask = pad(responses, policy.pad_id, policy.device)
    require_room(policy.model, prompt_ids.shape[1], ids.shape[1])
    return Rollout(prompt_ids, prompt_mask, ids, mask, torch.zeros_like(ids, dtype=torch.float32))
