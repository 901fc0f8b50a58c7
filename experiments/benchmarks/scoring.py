"""Scoring beside its peers, in one process: the head without logits, and prompts that are read once.

    python -m experiments.benchmarks.scoring [--device cpu] [--repeats 7] [--small] [--json FILE]

The head: log-probs with gradient, entropy and the log-probs of 20 more tokens, forward and backward, of `plain`
(log_softmax and gather of whole logits), `tiles` (ours), TRL's fused head (which has only the sampled token's) and, on
CUDA, liger-kernel's fused cross-entropy (neither more tokens nor entropy nor a gradient per token). `products` are the
matrix products of the tiles alone: the floor. All agree before they are timed; TRL and liger-kernel where they are
installed. Memory is the peak of live tensors beyond the inputs: on the CPU counted operation by operation without
computing (at 8,192 tokens, where plain needs 15 GB at a vocabulary of 152k), on CUDA the allocator's.

Prompts: hidden states and their gradient for groups of 8 responses, with every row whole and with each prompt once.
"""

import importlib.util
import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experiments.benchmarks import common
from minicppo.rl import log_probs as scoring
from minicppo.rl.lm_head import default_tile, token_log_probs
from minicppo.rl.policy import Policy
from minicppo.rl.rollout import Rollout

TOP = 20
GROUP = 8
HEADS = {  # (vocabulary, tokens, width), sized for the time they take
    "cpu": ((32_768, 256, 256), (151_936, 256, 256)),
    "cuda": ((32_768, 8_192, 4_096), (151_936, 8_192, 1_024), (151_936, 8_192, 2_048), (151_936, 8_192, 4_096)),
}
MEMORY_TOKENS = 8_192


class Peak(TorchDispatchMode):
    """Most bytes of tensors alive at once among those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and id(value.untyped_storage()) not in given:
                storage = value.untyped_storage()
                if storage not in self.known:
                    self.known.add(storage)
                    weakref.finalize(storage, self._free, storage.nbytes())
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
        return out

    def _free(self, size: int) -> None:
        self.now -= size


Outputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]  # log-probs, entropy, more of them, two gradients


class Head:
    """One problem: M tokens of width d, a vocabulary of V, 20 more ids and an upstream gradient for each token."""

    def __init__(self, vocabulary: int, tokens: int, width: int, device: str):
        self.shape, self.device = (vocabulary, tokens, width), device
        self.hidden = torch.randn(tokens, width, device=device).requires_grad_()
        self.weight = torch.empty(vocabulary, width, device=device).normal_(0, 3 * width**-0.5).requires_grad_()
        self.targets = torch.randint(vocabulary, (tokens,), device=device)
        self.top_ids = torch.randint(vocabulary, (tokens, TOP), device=device)
        self.upstream = torch.randn(tokens, device=device)

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 products on a GPU, float32 on the CPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext()

    def _gradients(self, log_probs: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(log_probs, (self.hidden, self.weight), self.upstream)

    def plain(self) -> Outputs:
        with self.precision():
            logits = torch.nn.functional.linear(self.hidden, self.weight)
        log_p = logits.float().log_softmax(-1)
        del logits
        log_probs = log_p.gather(1, self.targets[:, None])[:, 0]
        detached = log_p.detach()
        entropy = -(detached.exp() * detached).sum(-1)
        return log_probs, entropy, detached.gather(1, self.top_ids), *self._gradients(log_probs)  # type: ignore[return-value]

    def tiles(self) -> Outputs:
        with self.precision():
            found = token_log_probs(self.hidden, self.weight, None, self.targets, self.top_ids)
        return *vars(found).values(), *self._gradients(found.log_probs)

    def trl(self) -> Outputs:
        from trl.kernels import ChunkedLogProbFunction

        with self.precision():
            log_probs, entropy, *_ = ChunkedLogProbFunction.apply(
                self.hidden, self.weight, None, self.targets, 1.0, 32_768, None, 1.0, ("log_probs", "entropy")
            )
        return log_probs, entropy, None, *self._gradients(log_probs)

    def liger(self) -> Outputs:
        """Minus the sum of the log-probs: of the upstream gradients it knows only equal ones."""
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        with self.precision():
            loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")(self.weight, self.hidden, self.targets)
        return -loss, None, None, *torch.autograd.grad(-loss, (self.hidden, self.weight))

    @torch.no_grad()
    def products(self) -> None:
        """Of the tiles: once forward, three times backward, the first of them again."""
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        hidden, (rows, columns) = self.hidden.to(dtype), default_tile(self.hidden.device)
        for weight in self.weight.split(columns):
            part = weight.to(dtype)
            for chunk in hidden.split(rows):
                logits = chunk @ part.T
                logits = chunk @ part.T
                _ = logits @ part, logits.T @ chunk

    def candidates(self) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {"plain": self.plain, "tiles": self.tiles, "products": self.products}
        if importlib.util.find_spec("trl") is not None:
            found["trl"] = self.trl
        if self.device == "cuda" and importlib.util.find_spec("liger_kernel") is not None:
            found["liger"] = self.liger
        return found

    def check(self) -> None:
        """All candidates compute the same."""
        expected = self.plain()
        others = {"tiles": self.tiles, "trl": self.trl}
        for name in others.keys() & self.candidates().keys():
            for mine, theirs in zip(others[name](), expected, strict=True):
                if mine is not None and theirs is not None:
                    limit = (1e-4 if self.device == "cpu" else 0.05) * float(theirs.detach().abs().max())
                    assert float((mine - theirs).detach().abs().max()) <= limit, name


def memory(head: Head, tokens: int) -> dict[str, int]:
    """Peak bytes beyond the inputs, of each candidate."""
    vocabulary, _, width = head.shape
    found = {}
    for name in head.candidates().keys() - {"products"}:
        if head.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            getattr(head, name)()
            found[name] = torch.cuda.max_memory_allocated() - before
        else:
            with FakeTensorMode():
                larger = Head(vocabulary, tokens, width, "cpu")
                with Peak() as peak:
                    getattr(larger, name)()
            found[name] = peak.most
    return found


def measure_head(vocabulary: int, tokens: int, width: int, device: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    head = Head(vocabulary, tokens, width, device)
    head.check()
    took = common.seconds(head.candidates(), repeats, f"head, V = {vocabulary}", warm=True)
    most = memory(head, tokens if device == "cuda" else MEMORY_TOKENS)
    flops = 6 * tokens * vocabulary * width
    return {
        "part": "head",
        "vocabulary": vocabulary,
        "tokens": tokens,
        "width": width,
        "memory_tokens": tokens if device == "cuda" else MEMORY_TOKENS,
        "seconds": took,
        "peak_mb": {name: size / 2**20 for name, size in most.items()},
        "gradients_mb": 4 * (vocabulary + tokens) * width / 2**20,
        "time_ratio": took["tiles"] / took["plain"],
        "memory_ratio": most["tiles"] / most["plain"],
        "useful_gflops": flops / took["tiles"] / 1e9,
        "products_gflops": flops * 4 / 3 / took["products"] / 1e9,
    }


def smollm(layers: int, device: str) -> PreTrainedModel:
    """SmolLM2-135M's layers, `layers` of its 30, over a small vocabulary: the head is not what is measured."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=512, num_hidden_layers=layers)).eval().to(device)


def grouped(prompts: int, prompt: int, response: int, vocabulary: int, device: str) -> Rollout:
    """Groups of 8 responses of a third of `response` tokens to all of them; prompts of 2/3 of `prompt` to all of it."""
    lengths = torch.randint(2 * prompt // 3, prompt + 1, (prompts, 1)).repeat_interleave(GROUP, 0)
    ids = torch.randint(vocabulary, (prompts, prompt)).repeat_interleave(GROUP, 0)
    ends = torch.randint(response // 3, response + 1, (len(ids), 1))
    mask = torch.arange(prompt) >= prompt - lengths
    responses, zeros = torch.randint(vocabulary, (len(ids), response)), torch.zeros(len(ids), response)
    parts = ids, mask, responses, torch.arange(response) < ends, zeros
    ids, mask, responses, valid, zeros = (part.to(device) for part in parts)
    return Rollout(ids, mask, responses, valid, zeros)


def measure_prompts(name: str, model: PreTrainedModel, rollout: Rollout, repeats: int) -> dict[str, Any]:
    policy, parameters = Policy(model, None), list(model.base_model.parameters())
    valid = rollout.response_mask
    upstream = torch.randn(int(valid.sum()), model.config.hidden_size, device=valid.device)

    def run(one_pass: float | None) -> tuple[Tensor, ...]:
        with nullcontext() if one_pass is None else patch.object(scoring, "pass_tokens", lambda model: one_pass):
            hidden = scoring.hidden_states(policy, rollout)[valid]
        return hidden.detach(), *torch.autograd.grad(hidden, parameters, upstream)

    limit = 1e-4 if valid.device.type == "cpu" else 1e-3
    for mine, theirs in zip(run(0), run(math.inf), strict=True):
        assert float((mine - theirs).abs().max()) <= limit * float(theirs.abs().max())
    took = common.seconds(
        {"whole": lambda: run(math.inf), "once": lambda: run(0), "score": lambda: run(None)},
        repeats,
        f"prompts, {name}",
    )
    return {
        "part": "prompts",
        "model": name,
        "rows": len(rollout),
        "prompt": rollout.prompt_ids.shape[1],
        "response": rollout.response_ids.shape[1],
        "seconds": took,
        "gain": took["whole"] / took["once"],
        "gain_as_chosen": took["whole"] / took["score"],
    }


def main() -> None:
    args = common.options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    heads: tuple[tuple[int, int, int], ...] = ((5_000, 600, 16),) if args.small else HEADS[args.device]
    layers = 1 if args.device == "cpu" or args.small else 30
    rows: list[dict[str, Any]] = []
    for shape in heads:
        rows.append(measure_head(*shape, args.device, args.repeats))
        common.store(args, "scoring", rows, done=False)
    torch.manual_seed(0)
    small = smollm(layers, args.device)
    for prompt, response in ((50, 12), (50, 50)):
        rollout = grouped(2, prompt, response, 512, args.device)
        rows.append(measure_prompts(f"SmolLM2, layers: {layers}", small, rollout, args.repeats))
    rollout = grouped(4, 18, 51, 15, args.device)
    tiny = common.qwen3((15, 64, 128, 2, 4, 4, 16)).to(args.device)  # the policy from scratch of the presets
    rows.append(measure_prompts("tiny policy", tiny, rollout, args.repeats))
    print_rows(rows)
    common.store(args, "scoring", rows)


def print_rows(rows: list[dict[str, Any]]) -> None:
    heads = [dict(row) for row in rows if row["part"] == "head"]
    for row in heads:
        for name in ("trl", "liger"):
            took, most = row["seconds"].get(name), row["peak_mb"].get(name)
            row[f"{name}_text"] = "not measured" if took is None else f"{took:.2f} s, {most:,.0f} MB"
    columns = {
        "V": "{vocabulary:,}",
        "tokens": "{tokens:,}",
        "d": "{width:,}",
        "plain, s": "{seconds[plain]:.2f}",
        "tiles, s": "{seconds[tiles]:.2f}",
        "time": "{time_ratio:.2f}x",
        "products alone, s": "{seconds[products]:.2f}",
        "memory at tokens": "{memory_tokens:,}",
        "plain, MB": "{peak_mb[plain]:,.0f}",
        "tiles, MB": "{peak_mb[tiles]:,.0f}",
        "memory": "{memory_ratio:.3f}x",
        "of it gradients, MB": "{gradients_mb:,.0f}",
        "TRL": "{trl_text}",
        "liger-kernel": "{liger_text}",
    }
    print(common.table(heads, columns))
    print()
    columns = {
        "model": "{model}",
        "rows": "{rows}",
        "prompt": "{prompt}",
        "response": "{response}",
        "rows whole, s": "{seconds[whole]:.3f}",
        "prompts once, s": "{seconds[once]:.3f}",
        "gain": "{gain:.2f}x",
        "as chosen": "{gain_as_chosen:.2f}x",
    }
    print(common.table([row for row in rows if row["part"] == "prompts"], columns))


if __name__ == "__main__":
    main()
