"""PPO's clip of the ratio, which GRPO and DAPO share."""

from dataclasses import dataclass

from minicppo.rules.method import Method, TokenBatch, TokenWeights, hyper, masked_weights, register


@dataclass(frozen=True)
class PPO(Method):
    """Gradient of min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A).

    Zero beyond the clip, on the side that moves away from mu.
    """

    family = "ppo"
    formula = "M_PPO rho"
    source = "arXiv 1707.06347, 2402.03300, 2503.14476"

    clip_low: float = hyper(0.2, "DAPO and the paper's GRPO row", low=0, high=1)
    clip_high: float = hyper(0.28, "DAPO clip-higher, the paper's GRPO row (PPO: 0.2)", low=0)

    def __call__(self, batch: TokenBatch) -> TokenWeights:
        A, rho = batch.advantages, batch.ratio
        clipped = ((A > 0) & (rho > 1 + self.clip_high)) | ((A < 0) & (rho < 1 - self.clip_low))
        return masked_weights(batch, ~clipped, rho)


register(
    PPO(name="ppo", summary="symmetric ratio clip", clip_high=0.2),
    PPO(name="grpo", summary="clip-higher, the paper's GRPO row"),
)
