"""Log pi of mu's cells. TRL's fused head makes no logits, so they are made here, a few rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

LOGITS_AT_ONCE = 1 << 26  # 256 MB of float32
# Names under which configurations bend or scale logits between the head and the softmax.
BENT_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def require_plain_head(model: Any) -> None:
    """Raise ValueError for models whose logits are more than the head's output."""
    config = model.config.get_text_config()
    for name in BENT_LOGITS:
        if getattr(config, name, None) not in (None, 1.0):
            raise ValueError(
                f"the model's {name}={getattr(config, name)}: Top-K and exact divergences are computed from plain "
                "logits. Way out: a method with a binary divergence, such as cppo"
            )


@contextmanager
def last_hidden_states(model: Any) -> Iterator[list[Tensor]]:
    """Collects what the model's backbone returns while the block runs; detached."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found: list[Tensor] = []
    handle = base.base_model.register_forward_hook(
        lambda module, args, output: found.append(output.last_hidden_state.detach())
    )
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def cell_log_probs(model: Any, hidden: Tensor, ids: Tensor | None, temperature: float) -> Tensor:
    """(B, T, K) float32: log pi of the tokens `ids`, or of all (None), from the (B, T, H) states before the head."""
    head = model.get_output_embeddings()
    weight, bias = (x.full_tensor() if isinstance(x, DTensor) else x for x in (head.weight, head.bias))
    states = hidden.flatten(0, 1)
    rows = max(1, LOGITS_AT_ONCE // len(weight))
    found = []
    with maybe_gather_lm_head_ctx(weight, bias):
        for part in torch.arange(len(states), device=states.device).split(rows):
            log_p = (F.linear(states[part], weight.to(states.dtype), bias).float() / temperature).log_softmax(-1)
            found.append(log_p if ids is None else log_p.gather(1, ids.flatten(0, 1)[part]))
    return torch.cat(found).view(*hidden.shape[:2], -1)
