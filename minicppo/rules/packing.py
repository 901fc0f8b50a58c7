"""Where the tokens of a batch of responses stand: in rows of one width, or end to end."""

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Padded:
    """Rows of one width, (B, T, ...): already the form the rules work on."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width

    def blocks(self, size: int) -> Iterator[tuple[slice, slice, "Padded"]]:
        """Consecutive responses of about `size` tokens: which, where their tokens are, and their layout."""
        step = max(size // max(self.width, 1), 1)
        for start in range(0, max(self.rows, 1), step):
            rows = slice(start, start + step)
            yield rows, rows, self

    def pad(self, values: Tensor) -> Tensor:
        return values

    def unpad(self, values: Tensor) -> Tensor:
        return values


class Packed:
    """Responses of these lengths end to end, (N, ...); `pad` makes rows of them, `unpad` is its inverse."""

    def __init__(self, lengths: Int[Tensor, " B"]) -> None:
        if lengths.ndim != 1 or bool((lengths < 0).any()):
            raise ValueError(f"lengths must be a 1-D tensor of counts >= 0, got {lengths.tolist()}")
        self.lengths = lengths
        self.width = int(lengths.max()) if len(lengths) else 0
        self.tokens = int(lengths.sum())

    def blocks(self, size: int) -> Iterator[tuple[slice, slice, "Packed"]]:
        """Consecutive responses that make at most `size` tokens when padded, or a single one."""
        first, width, offset, end = 0, 0, 0, 0
        for row, n in enumerate(self.lengths.tolist()):
            width = max(width, n)
            if row > first and (row + 1 - first) * width > size:
                yield slice(first, row), slice(offset, end), Packed(self.lengths[first:row])
                first, width, offset = row, n, end
            end += n
        yield slice(first, None), slice(offset, end), Packed(self.lengths[first:])

    def pad(self, values: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "B T ..."]:
        """Zeros behind each row's length."""
        self.check("packed input", values)
        padded = values.new_zeros(*self.slots.shape, *values.shape[1:])
        return padded.masked_scatter(self.slots[(..., *(None,) * (values.ndim - 1))], values)

    def advantages(self, values: Tensor) -> Shaped[Tensor, "B 1"] | Shaped[Tensor, " N"]:
        """(B, 1) of one a response, given as (B,) or (B, 1); one a token, (N,), as they are.

        Raises ValueError where (B,) could be either: N = B, yet not every response is one token.
        """
        if values.shape != self.lengths.shape:
            return values
        if self.tokens == len(values) and bool((self.lengths != 1).any()):
            raise ValueError(
                f"advantages ({self.tokens},) may be one a response or one a token, of which there are as many: pass "
                "advantages[:, None] for one a response; for one a token, leave out the responses of length 0"
            )
        return values[:, None]

    def check(self, name: str, values: Tensor) -> None:
        """Raise ValueError unless the values have one entry a token along their first dimension."""
        if values.shape[:1] != (self.tokens,):
            raise ValueError(f"{name} is {tuple(values.shape)} but lengths sum to {self.tokens} tokens")

    def unpad(self, values: Shaped[Tensor, "B T ..."]) -> Shaped[Tensor, "N ..."]:
        return values.flatten(0, 1).index_select(0, self._places)

    @cached_property
    def slots(self) -> Bool[Tensor, "B T"]:
        """True where a row holds one of its tokens."""
        return torch.arange(self.width, device=self.lengths.device) < self.lengths[:, None]

    @cached_property
    def _places(self) -> Int[Tensor, " N"]:
        """Where each token stands in the flattened rows."""
        lengths, device = self.lengths, self.lengths.device
        shift = torch.arange(len(lengths), device=device) * self.width - (lengths.cumsum(0) - lengths)
        return torch.arange(self.tokens, device=device) + shift.repeat_interleave(lengths, output_size=self.tokens)
