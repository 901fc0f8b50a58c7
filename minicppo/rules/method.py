"""What a method is: a frozen record of hyper-parameters that gives tokens their weights; and all of them by name."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from minicppo.rules.batch import TokenBatch
from minicppo.rules.divergence import needs
from minicppo.rules.hyper import Record, hyper
from minicppo.rules.outputs import Reason, TokenWeights
from minicppo.text import nearest

__all__ = ["FAMILIES", "METHODS", "Method", "Reason", "TokenBatch", "TokenWeights"]  # what the file of a family needs
__all__ += ["get_method", "hyper", "masked_weights", "register"]

METHODS: dict[str, "Method"] = {}
FAMILIES: dict[str, type["Method"]] = {}


@dataclass(frozen=True)
class Method(Record):
    """A rule that gives each token its weight g: call it with a `TokenBatch`, get `TokenWeights`.

    A family is a subclass: its fields, made by `hyper`, are the hyper-parameters; the class variables say what it is. A
    variant is the same record with other values, a name and a summary. `register` makes both known.
    """

    name: str = field(default="", kw_only=True)  # default: the family's
    summary: str = field(default="", kw_only=True)

    family: ClassVar[str]
    formula: ClassVar[str]  # of g_t
    source: ClassVar[str]
    level: ClassVar[str] = "token"  # or "sequence": one decision for the whole response
    corrects: ClassVar[bool] = False  # does it read `TokenBatch.old_log_probs`?

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name or self.family)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, batch) -> TokenWeights")

    @property
    def needs(self) -> str:
        """What the batch must carry of both policies: "log_probs" of the sampled tokens, "topk" or "full"."""
        found = needs(getattr(self, "divergence", ""))
        return "topk" if found == "log_probs" and getattr(self, "direction", "") == "predicted" else found

    @property
    def overrides(self) -> dict[str, Any]:
        """The hyper-parameters in which this variant differs from its family's defaults."""
        return {f.name: self.params[f.name] for f in fields(self) if self.params.get(f.name, f.default) != f.default}

    def having(self, **params: Any) -> "Method":
        """The same method with other hyper-parameters. Raises ValueError for one it does not have."""
        self.require_known(params)
        return replace(self, **params)

    def require_known(self, names: Iterable[str]) -> None:
        """Raise ValueError on a name that is no hyper-parameter's, naming the nearest."""
        for name in names:
            if name not in self.params:
                raise ValueError(f"{self.name} has no hyper-parameter {name!r}{nearest(name, self.params)}")


def register(*variants: Method) -> None:
    """Make these methods known to `get_method`, and their classes as families.

    Raises ValueError when a family does not say what it is, or a name is taken.
    """
    for method in variants:
        kind = type(method)
        for name in ("family", "formula", "source"):
            if not hasattr(kind, name):
                raise ValueError(f"{kind.__name__} has no {name!r}: set it in the class")
        if FAMILIES.setdefault(method.family, kind) is not kind:
            raise ValueError(f"family {method.family!r} of {kind.__name__} is taken: choose another name")
        if METHODS.setdefault(method.name, method) is not method:
            raise ValueError(f"method {method.name!r} is taken: choose another name")


def get_method(name: str, *, correction: str | None = None, **params: Any) -> Method:
    """The method of that name, with hyper-parameters overridden.

    correction: a decoupled method, such as "icepop", whose treatment of the mismatch of pi_old and mu goes with this
    trust region in the place of its own.
    Raises ValueError for an unknown method or hyper-parameter (naming the nearest) and for a value outside its limits.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown{nearest(name, METHODS)}")
    method = METHODS[name]
    if correction is not None:
        known = [other for other, found in METHODS.items() if found.corrects]
        if method.corrects:
            raise ValueError(f"correction={correction!r} does not go with {name}, which has its own")
        if correction not in known:
            raise ValueError(f"correction={correction!r} does not go with {name}{nearest(correction, known)}")
        method = replace(METHODS[correction], rule=method, name=name)  # type: ignore[call-arg]
    return method.having(**params)


def masked_weights(
    batch: TokenBatch,
    keep: Tensor,
    weight: Tensor,
    *,
    away: Tensor | None = None,
    raw: Tensor | None = None,
    code: Reason = Reason.TOKEN,
    **extra: Any,
) -> TokenWeights:
    """Zero the weight where `keep` is false and say why; the kept are TOWARD or INSIDE by their direction.

    away: the direction test, where it is not the ratio's. raw: the importance weight before clips and masks, likewise.
    """
    keep = keep & batch.mask
    reason = torch.where(batch.away if away is None else away, int(Reason.INSIDE), int(Reason.TOWARD))
    reason = torch.where(keep, reason, int(code)) * batch.mask
    return TokenWeights(
        weight=weight.float() * keep,
        token_mask=keep,
        reason=reason.to(torch.int8),
        raw_weight=(batch.ratio if raw is None else raw) * batch.mask,
        sequence_level=code == Reason.SEQUENCE,
        **extra,
    )
