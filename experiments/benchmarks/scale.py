"""Our own trainer at Qwen3's sizes on one GPU: a rollout with Top-K log-probs, and one CPPO update with it.

    python -m experiments.benchmarks.scale [--device cuda] [--repeats 3] [--json FILE] [--small]

Random weights of the published sizes (float32, bfloat16 products, AdamW): what is measured is time and memory, and how
far the sampler's log-probs and the scorer's disagree for the same weights. Responses end at the cap alone.
"""

import statistics
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmarks.common import options, qwen3, store, table
from experiments.benchmarks.end_to_end import Endless, now, peak, resident
from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import validate
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import character_tokenizer
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for
from minicppo.rl.update import update
from minicppo.rules import get_method

SIZES = {  # hidden, intermediate, layers, heads
    "0.6B": (1024, 3072, 28, 16),
    "1.7B": (2048, 6144, 28, 16),
    "4B": (2560, 9728, 36, 32),
}
TINY = {"tiny": (32, 64, 2, 4)}
VOCABULARY, PROMPT, GROUP, MICRO_BATCH = 151_936, 128, 8, 8


def build(size: tuple[int, int, int, int], vocabulary: int, device: str) -> Endless:
    hidden, intermediate, layers, heads = size
    shape = vocabulary, hidden, intermediate, layers, heads, min(8, heads // 2), 128 if heads > 4 else 8
    with torch.device(device):
        model = qwen3(shape, tie_word_embeddings=True)
    return Endless(model, character_tokenizer("0123456789+*= "), autocast=torch.bfloat16)


def measure(
    name: str, size: tuple[int, int, int, int], vocabulary: int, responses: int, width: int, device: str, repeats: int
) -> dict[str, Any]:
    policy, before = build(size, vocabulary, device), resident(device)
    config = validate(
        {
            "device": device,
            "task": "chain",
            "method": "cppo-topk",
            "rollout": {"prompts": responses // GROUP, "group_size": GROUP},
            "train": {"minibatches": 1, "micro_batch": MICRO_BATCH, "lr": 1e-6, "horizon": width},
        }
    )
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=1e-6, fused=True)
    state, method = TrainState(policy, optimizer, policy), get_method("cppo-topk")
    prompts = torch.randint(2, vocabulary, (responses // GROUP, PROMPT)).tolist()
    times: dict[str, list[float]] = {"rollout": [], "update": []}
    for turn in range(repeats + 1):
        clock = [now()]
        rollout = sample(policy, prompts, width, 1.0, generator_for(turn, "scale"), needs="topk", samples=GROUP)
        clock.append(now())
        if turn == 0:
            part = rollout.rows(torch.arange(MICRO_BATCH, device=policy.device))
            with torch.no_grad():
                mismatch = float((response_log_probs(policy, part, 1.0).log_probs - part.log_probs).abs().mean())
        advantages = torch.linspace(-1, 1, responses, device=policy.device)
        clock.append(now())
        logged = update(state, method, replace(rollout, advantages=advantages), config)
        clock.append(now())
        if turn:  # the first compiles
            times["rollout"].append(clock[1] - clock[0])
            times["update"].append(clock[3] - clock[2])
    tokens = responses * width
    return {
        "size": name,
        "parameters": policy.model.num_parameters(),
        "responses": responses,
        "prompt": PROMPT,
        "width": width,
        **{f"{key}_s": statistics.median(value) for key, value in times.items()},
        **{f"{key}_tokens_per_s": tokens / statistics.median(value) for key, value in times.items()},
        "weights_gb": before / 1024,
        "peak_gb": peak(device) / 1024,
        "mismatch": mismatch,
        "drift": logged["drift"],
    }


def main() -> None:
    args = options(__doc__, repeats=3, device="cuda" if torch.cuda.is_available() else "cpu").parse_args()
    rows: list[dict[str, Any]] = []
    for name, size in (TINY if args.small else SIZES).items():
        shape = (300, 16, 8) if args.small else (VOCABULARY, 64, 512)
        rows.append(measure(name, size, *shape, args.device, args.repeats))
        store(args, "scale", rows, done=False)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    columns = {
        "policy": "{size}",
        "responses": "{responses} x {width}",
        "rollout, tokens/s": "{rollout_tokens_per_s:,.0f}",
        "update, tokens/s": "{update_tokens_per_s:,.0f}",
        "weights, GB": "{weights_gb:.1f}",
        "peak, GB": "{peak_gb:.1f}",
        "mean |log pi - log mu| before the update": "{mismatch:.1e}",
    }
    print(table(rows, columns))
    store(args, "scale", rows)


if __name__ == "__main__":
    main()
