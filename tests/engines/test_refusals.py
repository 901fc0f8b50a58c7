"""What an engine cannot carry, or would silently do otherwise: each named by itself, with the way out."""

import re

import pytest

from minicppo.engines.elsewhere import TARGETS, refusals_elsewhere
from minicppo.engines.refusals import refusals
from minicppo.rl.config import load_config

pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")

ACTOR = "actor_rollout_ref.actor"
REFUSED = {  # by engine: settings, and what is said of them
    "trl": [
        ("train.staleness=1", "set train.staleness=0$"),
        ("train.old_log_probs=recompute", "only for engine local: set it to null$"),
        ("method=tis", "corrects pi_old.*use --engine local, or --method grpo$"),
        ("method=cppo-exact", "151,936 log-probs a token: use --method cppo-topk$"),
        ("train.horizon=7", "horizon = 7, but it divides by max_new_tokens = 8192"),
        ("train.micro_batch=3", "256 responses an update do not split into micro-batches of 3 on 8 GPUs"),
        ("rollout.autocast=bfloat16", "it samples as it scores"),
        ("cluster.overrides=[learning_rate=1e-5]", "learning_rate=1e-5 would change nothing: set train.lr"),
        ("cluster.offload=true", "keeps the training state on the GPU"),
        ("cluster.nodes=2", "use --engine verl"),
    ],
    "verl": [
        ("method=cppo-topk", "likeliest tokens.*use --engine trl, or --method cppo$"),
        ("method=cppo-exact-kl", "whole distributions.*use --engine local.*--method cppo-kl$"),
        ("method.params.divergence=topk_tv", "likeliest tokens"),
        ("method=trm-avg", "--method trm-avg-k3$"),
        ("train.staleness=1", "train.staleness=0"),
        ("train.autocast='off'", "train.autocast=auto"),
        ("rollout.autocast=bfloat16", "vLLM's bfloat16 is its own"),
        ("model.chat=false", "model.chat=null"),
        ("task=addition task.options={}", "task 'addition' has no data files"),
        ("cluster.gpus_per_node=3", "256 responses an update do not divide among 3 data-parallel ranks"),
        ("cluster.overrides=[trainer.use_v1=False]", "trainer.use_v1=False moves the anchor"),
        ("cluster.overrides=[++algorithm.rollout_correction.bypass_mode=false]", "moves the anchor"),
        ("cluster.overrides=['~trainer.use_v1']", "moves the anchor"),
        ("cluster.overrides=['algorithm.rollout_correction={bypass_mode:false}']", "moves the anchor"),
        (f"cluster.overrides=['{ACTOR}.policy_loss={{loss_mode:dppo_tv}}']", "names another loss"),
        (f"cluster.overrides=[{ACTOR}.policy_loss.loss_mode=dppo_tv]", "names another loss"),
        ("device=cpu", "device=auto"),
    ],
    "prime-rl": [
        ("train.loss_agg_mode=seq-mean-token-mean", "set it to token-mean$"),
        ("cluster.nodes=2", "GPUs of one node"),
        ("train.normalize_std=true", "set it to false"),
    ],
    "skyrl": [
        ("train.loss_agg_mode=seq-mean-token-sum", "token-mean or seq-mean-token-mean"),
        ("method=cppo-topk", "needs the likeliest tokens"),
        ("train.staleness=2", "set train.staleness=0"),
        ("cluster.overrides=[trainer.x=1]", "another engine's"),
    ],
    "nemo-rl": [
        ("train.epochs=2", "set train.epochs=1"),
        ("cluster.tensor_parallel=2", "use --engine verl"),
    ],
}


def refused(engine: str, *overrides: str, preset: str = "qwen3-8b-base") -> list[str]:
    if engine in TARGETS:
        return refusals_elsewhere(load_config(preset, ["train.loss_agg_mode=token-mean", *overrides]), engine)
    return refusals(load_config(preset, [f"engine={engine}", "method=cppo", *overrides]))


@pytest.mark.parametrize(
    ("engine", "change", "message"), [(engine, *row) for engine, rows in REFUSED.items() for row in rows]
)
def test_refusals(engine, change, message):
    (refusal,) = refused(engine, *change.split())
    assert re.match(f"engine {engine}: .*{message}", refusal)


def test_policies_that_other_engines_cannot_load(tmp_path):
    refusal = "\n".join(refused("skyrl", preset="learn"))
    assert "use task math" in refusal
    assert "warmup=null" in refusal
    (tmp_path / "policy.gguf").touch()
    for engine in ("verl", *TARGETS):
        (refusal,) = refused(engine, f"model.path={tmp_path}/policy.gguf")
        assert "neither a Hugging Face folder nor hub:OWNER/NAME" in refusal
