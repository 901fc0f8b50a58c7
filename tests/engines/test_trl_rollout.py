"""What the sampling side hands over: mu's log-probs, and Top-K in the order that the rules expect."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from trl.generation.vllm_generation import extract_logprobs
from trl.trainer.utils import RepeatSampler

from minicppo.engines.trl_checkpoint import PromptOrder
from minicppo.engines.trl_rollout import require_plain_head, rolled_out, split_ranked
from minicppo.rl.seeding import generator_for
from tests.engines.stale import TEMPERATURE, K, tiny_policy
from tests.engines.trl_setup import feature


def vllm_outputs(log_probs: list[list[list[float]]], tokens: list[list[int]], k: int) -> Any:
    """What vLLM would return: the K likeliest tokens and, where it is not among them, the sampled one."""
    outputs = []
    for rows, sampled in zip(log_probs, tokens, strict=True):
        positions = []
        for row, token in zip(rows, sampled, strict=True):
            order = sorted(range(len(row)), key=lambda i: -row[i])
            wanted = {*order[:k], token}
            entries = {i: SimpleNamespace(rank=order.index(i) + 1, logprob=row[i]) for i in sorted(wanted)}
            positions.append(entries)  # vLLM's own order is not by rank
        outputs.append(SimpleNamespace(outputs=[SimpleNamespace(logprobs=positions)]))
    return outputs


@feature("vLLM's Top-K log-probs, on data of its shape", "works")
def test_vllm_log_probs_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(2, 3, 7, generator=generator).log_softmax(-1)
    tokens = torch.randint(7, (2, 3), generator=generator)
    ranked, ids = extract_logprobs(vllm_outputs(log_p.tolist(), tokens.tolist(), 2))
    sampled, found = split_ranked(tokens.tolist(), ranked, ids, 2)
    torch.testing.assert_close(torch.tensor(sampled)[..., 0], log_p.gather(2, tokens[..., None])[..., 0])
    top = log_p.topk(2)
    torch.testing.assert_close(found["rollout_top_log_probs"], top.values)
    assert torch.equal(found["rollout_top_ids"], top.indices)
    naive = torch.tensor([[row[0] for row in rows] for rows in ranked])  # what TRL takes for the sampled token's
    assert not torch.allclose(naive, torch.tensor(sampled)[..., 0])
    with pytest.raises(ValueError, match="token 0 of response 0"):
        split_ranked([[6]], [[[-0.1, -0.2]]], [[[1, 2]]], 2)
    assert math.isnan(split_ranked([[1]], [[[None, -0.2]]], [[[1, 2]]], 2)[1]["rollout_top_log_probs"][0, 0, 0])


@feature("ends: every id of `generation_config.eos_token_id`", "works")
def test_our_sampler_reads_a_group_once_and_repeats_itself():
    policy = tiny_policy()
    one, other = policy.encode("3+5="), policy.encode("1+2*4=")
    prompts = [one] * 4 + [other] * 4
    ids, log_probs, top = rolled_out(policy, prompts, 6, TEMPERATURE, generator_for(0, "x"), needs="topk", k=K)
    again, _, none = rolled_out(policy, prompts, 6, TEMPERATURE, generator_for(0, "x"))
    assert (ids, none) == (again, {})
    assert [len(row) for row in ids] == [len(row) for row in log_probs]
    assert len(top["rollout_top_log_probs"]) == 8
    uneven, *_ = rolled_out(policy, [one] * 4 + [other] * 2, 6, TEMPERATURE, generator_for(0, "x"))
    assert len(uneven) == 6
    ends = [policy.encode("1")[0], policy.encode("+")[0]]  # two more, as chat models have
    cut, kept, _ = rolled_out(policy, prompts, 6, TEMPERATURE, generator_for(0, "x"), ends)
    stops = [next((t + 1 for t, token in enumerate(row) if token in ends), len(row)) for row in ids]
    assert cut == [row[:n] for row, n in zip(ids, stops, strict=True)] != ids
    assert kept == [row[:n] for row, n in zip(log_probs, stops, strict=True)]


@feature("Top-K and exact divergences of soft-capped logits (Gemma 2)", "refused")
def test_bent_logits_are_refused():
    model = tiny_policy().model
    require_plain_head(model)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping=30"):
        require_plain_head(model)


def test_prompts_come_in_trl_s_order_in_every_epoch():
    theirs, behind = RepeatSampler(range(7), 2, seed=3), []
    ours = PromptOrder(RepeatSampler(range(7), 2, seed=3), lambda: len(behind))
    for _ in range(3):
        assert list(ours) == list(theirs) not in behind
        behind.append(list(ours))
