"""Sampling responses with a key-value cache, and the log-probs that they were sampled with."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from minicppo.rl.decoding import GeneralDecoder, decoder_for, read
from minicppo.rl.direct import native
from minicppo.rl.native_sampling import decode
from minicppo.rl.policy import Policy, layer_parameters, require_room, require_rows
from minicppo.rl.rollout import Needs, Rollout, join

ENDED, CUDA_ENDED = 1 / 16, 1 / 2  # share of the rows that may have ended before the others close ranks
CUDA_PAUSE = 8  # steps between two looks at how many rows are left
CUDA_WORK = 4e9  # rows x parameters below which a GPU's step takes as long for fewer rows
BLOCK = 128  # tokens whose probabilities are summed at a time


@torch.no_grad()
def sample(
    policy: Policy,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    needs: Needs = "log_probs",
    k: int = 20,
    samples: int = 1,
    batch: int | None = None,
    top_p: float = 1.0,
    likeliest: bool = False,
) -> Rollout:
    """Sample `samples` responses to each prompt from the untruncated softmax at `temperature`.

    Rows are ordered prompt by prompt. A row stops at one of `policy.ends` and is soon computed no further. Each row's
    random numbers are fixed in advance (CPU generator), so they depend neither on the device nor on `batch`.

    Args:
        prompts: token ids, of any lengths; each is read once, beside others of about its length.
        generator: CPU generator; None takes the likeliest token everywhere (greedy).
        needs: also keep log mu of the K likeliest tokens ("topk") or of all ("full").
        batch: most prompts per forward pass (all by default).
        top_p: for evaluation only: sample from the fewest likeliest tokens that hold this much probability. Log-probs
            stay those of the whole softmax, so such a rollout is no sample of mu and must not be trained on.
        likeliest: for evaluation only: before its samples, each prompt has a row of likeliest tokens.

    Raises ValueError for what cannot be sampled, and FloatingPointError where the policy's logits are not finite.
    """
    if not prompts or not all(prompts):
        raise ValueError("sample needs at least one prompt, and no prompt may be empty")
    if temperature <= 0 or max_new_tokens < 1 or samples < 1:
        raise ValueError(
            f"sample needs temperature > 0, max_new_tokens >= 1 and samples >= 1, got {temperature}, {max_new_tokens} "
            f"and {samples}; for the likeliest tokens pass generator=None"
        )
    if not 0 < top_p <= 1 or (top_p < 1 and needs != "log_probs"):
        raise ValueError(
            f"top_p must lie in (0, 1] and be 1 with needs={needs!r}, got {top_p}: truncated samples are for "
            "evaluation; to train, sample with top_p=1"
        )
    require_room(policy.model, max(map(len, prompts)), max_new_tokens)
    require_rows(policy.model, policy.tokenizer, [max(prompt) for prompt in prompts])
    uniforms = None
    if generator is not None:
        uniforms = torch.rand(len(prompts), samples, max_new_tokens, generator=generator, dtype=torch.float64)
        uniforms = F.pad(uniforms, (0, 0, int(likeliest), 0)).flatten(0, 1)
    rollouts, order, every = [], [], samples + likeliest
    sampler = _Sampler(policy, max_new_tokens, temperature, needs, k, every, top_p, likeliest)
    decoder, by_length = decoder_for(policy.model), sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for chunk in torch.tensor(by_length).split(batch or len(prompts)):
        chunk = chunk.sort().values
        rows = (chunk[:, None] * every + torch.arange(every)).flatten()
        sampler.uniforms = None if uniforms is None else uniforms[rows].to(policy.device)
        rollouts.append(sampler.sample(decoder, [prompts[i] for i in chunk.tolist()]))
        order.append(rows)
    if len(rollouts) == 1:
        return rollouts[0]
    return join(rollouts, policy.pad_id).rows(torch.cat(order).argsort().to(policy.device))


@dataclass
class _Sampler:
    """N rows at a time, and what is kept of every step of them: never (N, T, V) unless asked for.

    uniforms: (N, max_new_tokens), or None. samples: the greedy row among them. rows: (B,) which of the N are still
    computed. alive: (B,) which of them have not ended. tokens: (B,) their newest.
    """

    policy: Policy
    max_new_tokens: int
    temperature: float
    needs: Needs
    k: int
    samples: int
    top_p: float
    likeliest: bool
    uniforms: Tensor | None = None

    def sample(self, decoder: GeneralDecoder, prompts: list[list[int]]) -> Rollout:
        """Every step until all rows have ended, of each row up to its first end-of-sequence token."""
        device, pad_id = self.policy.device, self.policy.pad_id
        shape = len(prompts) * self.samples, self.max_new_tokens
        prompt_ids, prompt_mask = pad(prompts, pad_id, device, left=True)
        self.ids, self.log_probs = torch.full(shape, pad_id, device=device), torch.zeros(shape, device=device)
        self.t, self.rows = self.ids.new_zeros(1), torch.arange(shape[0], device=device)
        self.ends = torch.tensor(self.policy.ends, dtype=torch.long, device=device)
        self.alive, self.tokens = torch.ones_like(self.rows, dtype=torch.bool), torch.zeros_like(self.rows)
        model = self.policy.model
        with self.policy.precision():  # one context for all steps: autocast casts the weights once
            functions = native(model) if self.top_p == 1 else None
            if functions:
                logits, cache, _ = read(model, prompt_ids, prompt_mask)
            else:
                logits = decoder.read(prompt_ids, prompt_mask, self.samples, self.max_new_tokens)
            kept, self.bar = logits.shape[1], self.policy.barred(logits.shape[1])
            if self.needs != "full":
                kept = min(self.k, kept if self.bar is None else int((self.bar == 0).sum()))
            self.top_ids = self.ids.new_zeros(*shape, kept) if self.needs == "topk" else None
            self.top = None if self.needs == "log_probs" else self.log_probs.new_zeros(*shape, kept)
            mu = [self.log_probs, self.top_ids, self.top]
            if functions:
                taken = decode(
                    functions, self.policy, cache, prompt_mask, logits, self.samples, self.temperature, self.uniforms,
                    self.likeliest, self.ids, self.log_probs, self.top_ids, self.top,
                )  # fmt: skip
                over = torch.arange(self.max_new_tokens) >= taken[:, None]
            else:
                over = self.all_steps(decoder, logits)
        self.ids[over] = pad_id
        for values in mu:
            if values is not None:
                values[over] = 0
        if broken := int(self.log_probs.isnan().any(1).sum()):
            raise FloatingPointError(
                f"{broken} of {len(over)} responses have log-probs that are not numbers: the policy's logits are not "
                "finite; lower train.lr, or look at the weights it was loaded from"
            )
        prompt_ids, prompt_mask = (x.repeat_interleave(self.samples, 0) for x in (prompt_ids, prompt_mask))
        return Rollout(prompt_ids, prompt_mask, self.ids, ~over, *mu).trim()  # type: ignore[arg-type]

    def all_steps(self, decoder: GeneralDecoder, logits: Tensor) -> Tensor:
        """Until all rows have ended; true in (N, max_new_tokens) for what was computed after a row's end, or never."""
        cuda, steps = logits.is_cuda, 1
        few = CUDA_WORK / layer_parameters(self.policy.model) if cuda else 1  # rows that are not worth closing ranks
        self.take(logits)
        for t in range(1, self.max_new_tokens):
            if not cuda or t % CUDA_PAUSE == 1:  # to count the rows alive makes a GPU wait
                left, computed = int(self.alive.sum()), len(self.alive)
                if left == 0:
                    break
                if computed > few and computed - left >= computed * (CUDA_ENDED if cuda else ENDED):
                    order = _close_ranks(self.alive, left)
                    decoder.keep(order)
                    self.rows, self.alive, self.tokens = self.rows[order], self.alive[order], self.tokens[order]
            decoder.step(self.tokens, self.take)
            steps = t + 1
        ends = torch.isin(self.ids, self.ends)
        over = ends.cumsum(1) - ends.long() > 0
        over[:, steps:] = True
        return over

    def take(self, logits: Tensor) -> None:
        """The next step from logits (B, V). Writes in place and asks the GPU nothing, so that it can be recorded."""
        logits, at = logits.float(), (self.rows, self.t)
        logits = (logits if self.bar is None else logits + self.bar) / self.temperature
        if self.uniforms is None:
            tokens = logits.argmax(-1)
        else:
            tokens = inverse_cdf(logits, self.uniforms[at], self.top_p)
        if self.likeliest:
            tokens = torch.where(self.rows % self.samples == 0, logits.argmax(-1), tokens)
        norm = logits.logsumexp(-1, keepdim=True)
        self.ids[at] = tokens
        self.log_probs[at] = (logits.gather(1, tokens[:, None]) - norm)[:, 0]
        if self.top_ids is not None:
            logits, self.top_ids[at] = logits.topk(self.top_ids.shape[2])
        if self.top is not None:
            self.top[at] = logits - norm
        self.tokens.copy_(tokens)
        self.alive &= (tokens[:, None] != self.ends).all(1)
        self.t += 1


def _close_ranks(alive: Tensor, left: int) -> Tensor:
    """(left,) rows to go on with: those alive, where the last of them take the places of those that ended."""
    order = torch.arange(left, device=alive.device)
    order[~alive[:left]] = left + alive[left:].nonzero()[:, 0]
    return order


def pad(rows: list[list[int]], pad_id: int, device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """(N, T) ids and (N, T) bool mask of rows of different lengths, filled up on the right, or on the left."""
    lengths = torch.tensor([[len(row)] for row in rows], device=device)
    columns = torch.arange(int(lengths.max()), device=device)
    mask = columns >= len(columns) - lengths if left else columns < lengths
    ids = torch.full(mask.shape, pad_id, device=device)
    ids[mask] = torch.tensor([token for row in rows for token in row], device=device)
    return ids, mask


def inverse_cdf(logits: Tensor, uniforms: Tensor, top_p: float = 1.0) -> Tensor:
    """(B,) tokens: of each row the first whose cumulative probability exceeds its uniform number.

    The sums are float64, for vocabularies are large and every token must keep its probability; but the running sum is
    taken over blocks of tokens, and within one block, so that only one float32 pass reads the whole row.

    Args:
        logits: (B, V) float32. uniforms: (B,) float64 in [0, 1).
        top_p: keep the fewest likeliest tokens that hold this much probability.
    """
    p = (logits - logits.amax(-1, keepdim=True)).exp()
    if top_p < 1:
        ordered, index = p.sort(-1, descending=True)
        running = ordered.cumsum(-1, dtype=torch.float64)
        p = p.scatter(1, index, ordered.where(running - ordered < top_p * running[:, -1:], 0))
    blocks = F.pad(p, (0, -p.shape[1] % BLOCK)).view(len(p), -1, BLOCK)
    totals = blocks.sum(-1, dtype=torch.float64)
    block, rest = _locate(totals, uniforms * totals.sum(-1))
    token, _ = _locate(blocks[torch.arange(len(p), device=p.device), block].double(), rest)
    return (block * BLOCK + token).clamp(max=p.shape[1] - 1)  # logits that are no numbers: sample() tells


def _locate(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) first index at which the running sum of weights (B, M) exceeds the target (B,), and what is left of it.

    Its weight is never zero: rounding must not push the target out of [0, total). Of weights that are not
    numbers it is the last.
    """
    running = weights.cumsum(-1)
    target = target[:, None].clamp(min=0).minimum(running[:, -1:].nextafter(target.new_zeros(1)))
    index = torch.searchsorted(running, target, right=True).clamp(max=weights.shape[1] - 1)
    return index[:, 0], (target - running.gather(1, index) + weights.gather(1, index))[:, 0]
