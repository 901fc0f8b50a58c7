"""Every method by name. A new one is a function here or beside, and one line in METHODS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minicppo.rules.batch import TokenBatch
from minicppo.rules.divergence import needs as divergence_needs
from minicppo.rules.hyper import Hyper, check_hypers, hypers
from minicppo.rules.methods import divergence as by_divergence
from minicppo.rules.methods import ratio as by_ratio
from minicppo.rules.outputs import TokenWeights
from minicppo.text import nearest


@dataclass(frozen=True)
class Family:
    """What the variants of one function have in common."""

    function: Callable[..., TokenWeights]
    formula: str  # g_t
    source: str
    level: str = "token"  # or "sequence": one decision for the whole response


FAMILIES = {
    "reinforce": Family(by_ratio.reinforce, "1", "Williams 1992"),
    "none": Family(by_ratio.none, "rho", "importance sampling"),
    "ppo": Family(by_ratio.ppo, "M_PPO rho", "arXiv 1707.06347, 2402.03300, 2503.14476"),
    "cispo": Family(by_ratio.cispo, "clip(rho, w_low, w_max)", "arXiv 2506.13585"),
    "minpro": Family(by_ratio.minpro, "clip(min_{i<t} rho_i * rho, w_low, w_max)", "arXiv 2601.22718"),
    "gspo": Family(by_ratio.gspo, "M_GSPO(s) s", "arXiv 2507.18071", "sequence"),
    "sapo": Family(by_ratio.sapo, "4 p (1 - p) rho", "arXiv 2511.20347"),
    "drpo": Family(by_ratio.drpo, "(1 - sign(A (rho - 1)) |pi - mu| / delta) rho", "arXiv 2606.09821"),
    "dppo": Family(by_divergence.dppo, "M_DPPO min(rho, C)", "arXiv 2602.04879"),
    "trm": Family(by_divergence.trm, "M(y) rho", "arXiv 2512.23075", "sequence"),
    "cppo": Family(by_divergence.cppo, "M_CPPO rho", "arXiv 2606.10968"),
    "decoupled": Family(by_divergence.decoupled, "M_CPPO rho, two weights", "ours, after arXiv 2606.10968"),
}


@dataclass(frozen=True)
class MethodSpec:
    """One line of the registry: a family, the hyper-parameters in which the variant differs, and what it is."""

    family: str
    summary: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, MethodSpec] = {
    "reinforce": MethodSpec("reinforce", "no importance weight, no mask"),
    "none": MethodSpec("none", "importance weight, no mask"),
    "ppo": MethodSpec("ppo", "symmetric ratio clip", {"clip_high": 0.2}),
    "grpo": MethodSpec("ppo", "clip-higher, the paper's GRPO row"),
    "cispo": MethodSpec("cispo", "clipped weight, gradient everywhere"),
    "cispo-verl": MethodSpec("cispo", "verl's example: maximum weight 1.2", {"w_max": 1.2}),
    "minpro": MethodSpec("minpro", "prefix minimum of the ratios"),
    "gspo": MethodSpec("gspo", "clip on the response's mean ratio"),
    "sapo": MethodSpec("sapo", "sigmoid in the place of the clip"),
    "drpo": MethodSpec("drpo", "quadratic penalty, weighted by mu"),
    "spo": MethodSpec("drpo", "quadratic penalty, not weighted by mu", {"mu_weighted": False}),
    "dppo": MethodSpec("dppo", "Binary TV"),
    "dppo-kl": MethodSpec("dppo", "Binary KL", {"divergence": "binary_kl", "delta": 0.05}),
    "dppo-topk": MethodSpec("dppo", "Top-K TV, the paper's DPPO row", {"divergence": "topk_tv"}),
    "dppo-topk-kl": MethodSpec("dppo", "Top-K KL", {"divergence": "topk_kl", "delta": 0.05}),
    "dppo-exact": MethodSpec("dppo", "exact TV (small vocabularies)", {"divergence": "exact_tv"}),
    "dppo-exact-kl": MethodSpec("dppo", "exact KL", {"divergence": "exact_kl", "delta": 0.05}),
    "pdm": MethodSpec(
        "dppo",
        "Predictive Divergence Masks: Top-K KL, predicted direction",
        {"divergence": "topk_kl", "delta": 0.05, "direction": "predicted", "ratio_cap": 5.0},
    ),
    "trm-max": MethodSpec("trm", "largest Top-K KL", {"delta_max": 0.05}),
    "trm-avg": MethodSpec("trm", "mean Top-K KL", {"delta_avg": 0.001}),
    "trm-both": MethodSpec("trm", "largest and mean Top-K KL", {"delta_max": 0.1, "delta_avg": 0.002}),
    "trm-max-exact": MethodSpec("trm", "largest exact KL", {"delta_max": 0.05, "divergence": "exact_kl"}),
    "trm-avg-exact": MethodSpec("trm", "mean exact KL", {"delta_avg": 0.001, "divergence": "exact_kl"}),
    "trm-max-logratio": MethodSpec("trm", "largest |log ratio|", {"delta_max": 0.05, "divergence": "abs_log_ratio"}),
    "trm-avg-k3": MethodSpec("trm", "mean k3 estimate of KL", {"delta_avg": 0.001, "divergence": "k3"}),
    "cppo": MethodSpec("cppo", "Binary TV, dynamic budget: the released code's divergence"),
    "cppo-kl": MethodSpec("cppo", "Binary KL", {"divergence": "binary_kl", "delta": 0.1, "delta_b": 0.002}),
    "cppo-topk": MethodSpec("cppo", "Top-K TV: the paper's main results", {"divergence": "topk_tv"}),
    "cppo-topk-kl": MethodSpec(
        "cppo", "Top-K KL: the paper's KL ablation", {"divergence": "topk_kl", "delta": 0.1, "delta_b": 0.002}
    ),
    "cppo-exact": MethodSpec("cppo", "exact TV (small vocabularies)", {"divergence": "exact_tv"}),
    "cppo-exact-kl": MethodSpec("cppo", "exact KL", {"divergence": "exact_kl", "delta": 0.1, "delta_b": 0.002}),
    "cppo-fixed": MethodSpec(
        "cppo", "fixed budget: the post-trained 1.7B's row", {"budget": "fixed", "delta_b": 0.015}
    ),
    "cppo-no-budget": MethodSpec("cppo", "ablation: position weights alone", {"budget": "off"}),
    "cppo-no-weight": MethodSpec("cppo", "ablation: budget alone", {"schedule": "constant"}),
    "cppo-shuffled": MethodSpec(
        "cppo", "ablation: weights in a random order, no budget", {"budget": "off", "schedule": "shuffled"}
    ),
    "cppo-soft": MethodSpec("cppo", "soft gate min(1, 1/x), App. C", {"gate": "reciprocal"}),
    "cppo-soft-sigmoid": MethodSpec("cppo", "soft gate with SAPO's shape (ours)", {"gate": "sigmoid"}),
    "cppo-budget-gate": MethodSpec("cppo", "causal water-filling gate, keeps the budget (ours)", {"gate": "budget"}),
    "cppo-predicted": MethodSpec(
        "cppo", "Top-K TV, predicted direction (ours)", {"divergence": "topk_tv", "direction": "predicted"}
    ),
    "cppo-verl": MethodSpec(
        "cppo", "the authors' verl branch: padded length, budget cap 5x", {"length": "padded", "cap_factor": 5.0}
    ),
    "cppo-decoupled": MethodSpec("decoupled", "ablation: weighted token limit, unweighted budget (ours)"),
}


@dataclass(frozen=True)
class Method:
    """A method bound to its hyper-parameters: call it with a `TokenBatch`, get `TokenWeights`."""

    name: str
    family: Family
    params: Mapping[str, Any]

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        return self.family.function(batch, **self.params)

    @property
    def needs(self) -> str:
        """What the batch must carry beyond log-probs: "log_probs" (nothing), "topk" or "full" cells."""
        found = divergence_needs(self.params.get("divergence", ""))
        return "topk" if found == "log_probs" and self.params.get("direction") == "predicted" else found

    @property
    def hypers(self) -> dict[str, tuple[Any, Hyper]]:
        """Each hyper-parameter's resolved value and its source."""
        return {name: (self.params[name], note) for name, (_, note) in hypers(self.family.function).items()}


def get_method(name: str, **params: Any) -> Method:
    """The method of that name, with hyper-parameters overridden.

    Raises ValueError for an unknown method or hyper-parameter (naming the nearest) and for a value outside its limits.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown{nearest(name, METHODS)}")
    spec = METHODS[name]
    family = FAMILIES[spec.family]
    check_hypers(family.function, params)
    defaults = {key: default for key, (default, _) in hypers(family.function).items()}
    return Method(name, family, {**defaults, **spec.overrides, **params})
