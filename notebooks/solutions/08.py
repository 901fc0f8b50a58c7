"""Solutions to the exercises of walkthrough 8."""

from pathlib import Path

from minicppo.engines.plan import make_plan
from minicppo.rl.config import load_config


def answer_1(parameters, gpus):
    """Weight, gradient and two moments, four bytes each."""
    return 16 * parameters / gpus


# 8.2: verl hands a loss the sampled tokens alone, and TRL puts the whole training state on each GPU.
changes = ["engine=trl", "method=cppo-topk", "cluster.gpu=h200-141gb"]
answer_2 = make_plan(load_config("qwen3-8b-base", changes), Path("runs"), [])


def answer_3(rollout_log_probs, old_log_probs, log_probs, response_mask):
    """Means of sizes, over valid tokens."""
    mismatch = abs(old_log_probs - rollout_log_probs)[response_mask].mean()
    drift = abs(log_probs - old_log_probs)[response_mask].mean()
    return mismatch, drift
