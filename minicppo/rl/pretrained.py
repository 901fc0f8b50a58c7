"""Saved models: read by `transformers`, and used only where every weight was there, of its shape, and finite."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from minicppo.files import Damaged, reading

ANEW = "save it anew, or take an undamaged copy"


def load_pretrained(
    folder: Path, way_out: str = ANEW, gguf_file: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model of a Hugging Face folder (or of a GGUF file in it), in float32, and its tokenizer.

    Raises ValueError, with the way out: a file is damaged, its weights are not exactly the model's, or it is none that
    reads from left to right.
    """
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if gguf_file:
        source["gguf_file"] = gguf_file
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what does not fit is said below, in one line
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **source)
        source |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
    except Exception:
        with reading(folder / gguf_file if gguf_file else _damaged(folder), way_out):
            raise
    finally:
        logging.set_verbosity(verbosity)
    weights = folder / (gguf_file or "model.safetensors")
    with reading(weights if weights.is_file() else folder, way_out):  # a large model is in several files
        for kind in ("missing", "unexpected", "mismatched"):  # transformers makes up weights that are missing
            if names := sorted(map(str, found.get(f"{kind}_keys", ()))):
                raise ValueError(f"{len(names)} weights are {kind}, such as {names[0]}")
        require_finite(model.state_dict())
        model.eval()
        require_causal(model)
    return model, tokenizer


@torch.no_grad()
def require_causal(model: PreTrainedModel) -> None:
    """Raises ValueError where logits depend on later tokens, as an encoder's do."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 0]]) % len(model.get_input_embeddings().weight)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    if float((logits[0] - logits[1]).abs().max()) > 1e-4 * float(logits.abs().max()):
        raise Damaged(
            f"{type(model).__name__} is an encoder: a token's logits depend on later ones, so it cannot be sampled. "
            "Way out: a causal language model (or is_decoder=true in config.json, if it was trained as one)"
        )


def _damaged(folder: Path) -> Path:
    """The first file that is no JSON or safetensors though its name says so, else the folder."""
    for file in sorted(folder.iterdir()):
        try:
            if file.suffix == ".json":
                json.loads(file.read_bytes())
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
        except Exception:
            return file
    return folder


def require_finite(tensors: dict[str, torch.Tensor], low: float = -float("inf")) -> None:
    """Raises ValueError with the name of a tensor that holds NaN, an infinity, or a number below `low`."""
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.is_floating_point():
            least, most = (float(end) for end in torch.aminmax(tensor))
            if not (low <= least and abs(least) < float("inf") and abs(most) < float("inf")):
                raise ValueError(f"{name} has values from {least:g} to {most:g}")
