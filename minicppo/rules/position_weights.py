"""Position weights w_t: strict early, relaxed late."""

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from minicppo.text import nearest

SCHEDULES = ("linear", "constant", "shuffled")


def position_weights(
    response_mask: Bool[Tensor, "B T"],
    w_min: float,
    *,
    schedule: str = "linear",
    length: str | int = "own",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "B T"]:
    """w_t = 1 - (1 - w_min) (t - 1) / (T - 1), paper Eq. 9; zero on invalid positions.

    t counts valid tokens, so padding on either side and tool tokens in between do not matter.
    length: what T is. "own" the response's number of valid tokens (paper), "padded" the width of the batch (the
    authors' verl branch), or an integer horizon (one fixed schedule for all). T = 1 gives 1 (ours: the formula is 0/0).
    schedule: "linear"; "constant" gives 1 everywhere; "shuffled" (paper's ablation) the same values in a random order
    that depends on (seed, T) alone.
    Raises ValueError on an unknown schedule or a horizon shorter than a response.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r} is unknown{nearest(schedule, SCHEDULES)}")
    valid = response_mask.view(torch.int8)  # bytes: bools are slow to convert and to compare on the CPU
    if schedule == "constant":
        return valid.to(dtype)
    own = valid.sum(1, keepdim=True).to(dtype)
    if length == "own":
        total = own
    elif length == "padded":
        total = torch.full_like(own, valid.shape[1])
    elif isinstance(length, int):
        longest = int(own.max()) if own.numel() else 0
        if length < longest:
            raise ValueError(f"length={length} is shorter than a response of {longest} tokens; raise it, or use 'own'")
        total = torch.full_like(own, length)
    else:
        raise ValueError(f"length={length!r} is unknown; use 'own', 'padded' or a horizon in tokens")
    rank = _ranks(valid, dtype)
    if schedule == "shuffled":
        rank = _shuffle(rank.clamp(min=0).minimum((own - 1).clamp(min=0)), total, seed)
    return (rank * (w_min - 1)).div((total - 1).clamp(min=1)).add_(1).mul_(valid)


def _ranks(valid: Int8[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "#B T"]:
    """Which of its row's valid tokens each is, from 0; one row serves all when none has left padding or holes."""
    rises = valid.diff(dim=1)
    if rises.numel() and rises.max() > 0:
        return valid.to(dtype).cumsum(1).sub_(1)
    return torch.arange(valid.shape[1], dtype=dtype, device=valid.device)[None]


def _shuffle(rank: Float[Tensor, "B T"], total: Float[Tensor, "B 1"], seed: int) -> Float[Tensor, "B T"]:
    """Each row's ranks permuted, by one permutation for each length: independent of padding and of the other rows."""
    shuffled = torch.empty_like(rank)
    for row, n in enumerate(map(int, total[:, 0].tolist())):
        order = torch.randperm(max(n, 1), generator=torch.Generator().manual_seed(seed * 1_000_003 + n))
        shuffled[row] = order.to(rank)[rank[row].long()]
    return shuffled
