"""The rollout sampler beside `generate` of `transformers`: same model, prompts, temperature and lengths, one process.

    python -m experiments.benchmarks.sampling [--device cpu|cuda] [--threads 1] [--repeats 7] [--json FILE] [--small]
        [--loop] [--large]

Both return the sampled tokens and their log-probs; both are checked against a plain forward pass before they are timed.
`generate` runs with its sampling warpers off and keeps log-probs on the way, without (B, T, V), which is its fastest
way. `--loop` adds our sampler on the model's own growing cache. On a CPU the 30M model takes half an hour: `--large`
times it alone, into `sampling-large.json`.

The last column is the limit: what the useful products (each prompt read once, each token computed once) reach of the
speed of large float32 products, timed in turns with the rest.

Lengths: in `equal` no row ends before the cap; in `spread` the end-of-sequence token has probability 3 / cap at every
step, so that lengths are geometric with a mean of about a third of the cap. Our sampler draws them; `generate` then
stops row by row at the very same lengths (a per-row stopping criterion), so both make the same tokens a row, and
tokens per second count these alone.
"""

import math
import time
from argparse import Namespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria

from experiments.benchmarks.common import Products, options, products_of, qwen3, seconds, store, table
from minicppo.rl import sampling
from minicppo.rl.decoding import GeneralDecoder
from minicppo.rl.policy import Policy, character_tokenizer
from minicppo.rl.rollout import Rollout
from minicppo.rl.sampling import sample

EOS = 1  # of character_tokenizer
SAMPLES = 8  # responses a prompt
SIZES = {  # vocabulary, width, inner width, layers, heads, heads of keys, size of a head
    "0.1M": (16, 64, 192, 2, 4, 4, 16),
    "1M": (512, 128, 384, 4, 4, 4, 32),
    "30M": (8192, 512, 1536, 8, 8, 4, 64),
}


def build(size: str, device: str) -> Policy:
    """A Qwen3-like policy with random weights, and a bias on its head that sets how likely responses end."""
    vocabulary, width, *_ = SIZES[size]
    model = qwen3(SIZES[size], tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
    head = nn.Linear(width, vocabulary)
    head.weight = model.model.embed_tokens.weight
    nn.init.zeros_(head.bias)
    model.lm_head = head
    return Policy(model.to(device), character_tokenizer("abcdefghijklmn"), whole_vocabulary=True)


class _Recorder(LogitsProcessor):
    """Log-probs of the tokens as they are chosen, each step's looked up at the next."""

    def __init__(self) -> None:
        self.log_probs: list[Tensor] = []
        self.last: tuple[Tensor, Tensor] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.look_up(input_ids)
        self.last = scores, scores.logsumexp(-1, keepdim=True)
        return scores

    def look_up(self, ids: Tensor) -> None:
        if self.last is not None:
            self.log_probs.append(self.last[0].gather(1, ids[:, -1:]) - self.last[1])


class _StopAt(StoppingCriteria):
    """Row i ends with its lengths[i]-th new token."""

    def __init__(self, lengths: Tensor, width: int):
        self.columns = lengths + width

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return input_ids.shape[1] >= self.columns


def by_generate(policy: Policy, rollout: Rollout) -> Rollout:
    """What `generate` makes of the same prompts at the same lengths."""
    recorder, width = _Recorder(), rollout.prompt_ids.shape[1]
    lengths = rollout.response_mask.sum(1)
    ids = policy.model.generate(
        rollout.prompt_ids[::SAMPLES],
        attention_mask=rollout.prompt_mask[::SAMPLES].long(),
        num_return_sequences=SAMPLES,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=rollout.response_ids.shape[1],
        pad_token_id=policy.pad_id,
        logits_processor=LogitsProcessorList([recorder]),
        stopping_criteria=[_StopAt(lengths, width)],
    )
    recorder.look_up(ids)
    return Rollout(
        rollout.prompt_ids, rollout.prompt_mask, ids[:, width:], rollout.response_mask, torch.cat(recorder.log_probs, 1)
    )


@torch.no_grad()
def check(policy: Policy, rollout: Rollout, name: str) -> None:
    """The log-probs are those of a plain forward pass over the finished rows."""
    part = rollout.rows(torch.arange(0, len(rollout), max(1, len(rollout) // 16), device=policy.device))
    ids, mask = torch.cat([part.prompt_ids, part.response_ids], 1), torch.cat([part.prompt_mask, part.response_mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = policy.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    log_p = logits[:, part.prompt_ids.shape[1] - 1 : -1].float().log_softmax(-1)
    own = log_p.gather(2, part.response_ids[..., None])[..., 0]
    error = float((own - part.log_probs)[part.response_mask].abs().max())
    assert error < (1e-4 if own.device.type == "cpu" else 1e-3), f"{name}: log-probs are off by {error}"


def measure(size: str, lengths: str, rows: int, cap: int, args: Namespace, candidates: list[str]) -> dict[str, Any]:
    policy, rng = build(size, args.device), torch.Generator().manual_seed(1)
    vocab = SIZES[size][0]
    with torch.no_grad():
        policy.model.lm_head.bias[EOS] = math.log((vocab - 1) / (cap / 3 - 1)) if lengths == "spread" else -1e9
    widths = torch.randint(12, 25, (rows // SAMPLES,), generator=rng).tolist()
    prompts = [torch.randint(2, vocab, (width,), generator=rng).tolist() for width in widths]

    def ours() -> Rollout:
        return sample(policy, prompts, cap, 1.0, torch.Generator().manual_seed(2), samples=SAMPLES)

    def loop() -> Rollout:
        with patch.multiple(sampling, decoder_for=GeneralDecoder, native=lambda model: None):
            return ours()

    drawn = ours()
    check(policy, drawn, "ours")
    check(policy, by_generate(policy, drawn), "generate")
    functions = {"ours": ours, "generate": lambda: by_generate(policy, drawn), "loop": loop}
    products = Products(args.device)
    timed = {name: functions[name] for name in candidates} | {"products": products}
    took = seconds(timed, args.repeats, f"{size}, {lengths} lengths", warm=True, clock=args.clock)
    limit, tokens = took.pop("products"), int(drawn.response_mask.sum())
    gigaflop = 2e-9 * products_of(policy.model) * (tokens + sum(widths))
    return {
        "size": size,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "lengths": lengths,
        "rows": rows,
        "cap": cap,
        "tokens": tokens,
        **products.share(gigaflop, took["ours"], limit),
        **{f"{name}_tokens_per_s": tokens / s for name, s in took.items()},
        **{f"times_{name}": s / took["ours"] for name, s in took.items() if name != "ours"},
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--loop", action="store_true", help="time our sampler on the model's own growing cache, too")
    parser.add_argument("--large", action="store_true", help="30M parameters alone: half an hour on a CPU")
    parser.add_argument("--cap", type=int, default=128, help="most tokens a response")
    args = parser.parse_args()
    candidates = ["ours", "generate", "loop"] if args.loop else ["ours", "generate"]
    torch.set_num_threads(args.threads)
    result: list[dict[str, Any]] = []
    name = "sampling-large" if args.large else "sampling"
    args.clock = time.process_time if args.cpu_time else time.perf_counter
    rows, cap = (16, 12) if args.small else (256, args.cap)
    for size in ["0.1M"] if args.small else ["30M"] if args.large else list(SIZES)[: 2 if args.device == "cpu" else 3]:
        for lengths in ("equal", "spread"):
            result.append(measure(size, lengths, rows, cap, args, candidates))
            store(args, name, result, done=False, clock=args.clock.__name__)
    columns = {
        "model": "{size}",
        "lengths": "{lengths}",
        "rows": "{rows}",
        "tokens": "{tokens}",
        "ours, tokens/s": "{ours_tokens_per_s:,.0f}",
        "generate, tokens/s": "{generate_tokens_per_s:,.0f}",
        **{f"times {name}": f"{{times_{name}:.2f}}" for name in candidates[1:]},
        "of the machine's products": "{of_machine:.0%}",
    }
    print(table(result, columns))
    store(args, name, result, clock=args.clock.__name__)


if __name__ == "__main__":
    main()
