"""Policies and model folders by content: what is kept for one must not be taken for another at the same path."""

import hashlib
import json
from pathlib import Path

import torch

from minicppo.rl.policy import Policy


def policy_digest(policy: Policy) -> str:
    """A hash of all that determines what a policy answers: weights, settings, tokenizer, chat template and ends."""
    digest, tokenizer = hashlib.sha256(), policy.tokenizer
    for name, tensor in sorted(policy.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    config = policy.model.config.to_diff_dict() if hasattr(policy.model, "config") else {}
    template = getattr(tokenizer, "chat_template", None) if policy.chat else None
    rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    known = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    digest.update(json.dumps([known, template, rules, policy.ends], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """A hash of the names and contents of the files in a model's folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]
