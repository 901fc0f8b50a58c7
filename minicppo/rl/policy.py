"""A policy: a `transformers` causal language model and its tokenizer, built from scratch or loaded from a folder."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from minicppo.files import reading
from minicppo.rl.pretrained import ANEW, load_pretrained
from minicppo.rl.sections import HUB, ModelConfig
from minicppo.rl.tasks.base import Task

transformers_logging.disable_progress_bar()  # of loading and saving: they would break a run's own progress display

PAD, EOS = "<pad>", "<eos>"


@dataclass(frozen=True)
class Policy:
    """A model and its tokenizer.

    Attributes:
        chat: wrap every prompt in the tokenizer's chat template.
        autocast: lower precision of forward passes (log-probs are taken in float32 all the same); None: as stored.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool = False
    autocast: torch.dtype | None = None

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, chat template included where the policy has one."""
        if self.chat:
            turn = [{"role": "user", "content": prompt}]
            with reading(Path(self.tokenizer.name_or_path), "mend its chat template, or model.chat=false"):
                prompt = str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        ids = self.tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]
        return [int(token) for token in ids]

    def decode(self, ids: list[int]) -> str:
        """Text of a response. Only the final end-of-sequence token is dropped: a stray special token stays visible."""
        if ids and ids[-1] == self.eos_id:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @property
    def eos_id(self) -> int:
        """The token that ends a response."""
        return int(self.tokenizer.eos_token_id)

    @property
    def pad_id(self) -> int:
        """The token in the padding; it may equal `eos_id`, so masks are made from lengths and never from ids."""
        pad = self.tokenizer.pad_token_id
        return int(self.eos_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.model.device

    def precision(self) -> AbstractContextManager[object]:
        """The autocast context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else nullcontext()


_PARAMETERS: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()  # counting takes a millisecond


def layer_parameters(model: PreTrainedModel) -> int:
    """Parameters that every token passes: the base model's without embeddings, one at least."""
    if model not in _PARAMETERS:
        _PARAMETERS[model] = max(model.base_model.num_parameters(exclude_embeddings=True), 1)
    return _PARAMETERS[model]


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token per character, after a padding and an end-of-sequence token; a character outside it is an error."""
    vocab = {token: i for i, token in enumerate([PAD, EOS, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocab))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, padding_side="left")


def build_policy(config: ModelConfig, task: Task, seed: int) -> Policy:
    """The policy a run starts from: loaded if the config names a path, else a small Qwen3-like model from scratch.

    The small model (RMSNorm, rotary positions, query-key norm, SwiGLU, tied embeddings) is a pure function of the
    sizes, the task's alphabet and the seed; ValueError where the task has none.
    """
    if config.path is not None:
        return load_policy(config.path, chat=config.chat)
    if not task.alphabet:
        raise ValueError(
            f"task {task.name!r} has no alphabet for a policy from scratch: set model.path to a saved model"
        )
    tokenizer = character_tokenizer(task.alphabet)
    architecture = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        head_dim=config.hidden_size // config.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(architecture)
    return Policy(model.float().eval(), tokenizer, chat=False)


def load_policy(path: str | Path, chat: bool | None = None, way_out: str = ANEW) -> Policy:
    """A policy from a Hugging Face folder, in float32.

    `path` may also be a `.gguf` file or `package:NAME`, a Python package that ships one; see `minicppo.rl.gguf`.
    Nothing is downloaded, but for `hub:OWNER/NAME`: once, into the hub's cache.
    `chat=None` uses the tokenizer's chat template if it has one.

    Raises FileNotFoundError without such a folder, file or package, ValueError without an end-of-sequence token, or
    where a file is damaged (with `way_out`).
    """
    if is_gguf(str(path)):
        from minicppo.rl.gguf import folder_of  # optional packages

        path = folder_of(str(path))
    if str(path).startswith(HUB):
        from huggingface_hub import snapshot_download

        path = snapshot_download(str(path).removeprefix(HUB))
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model.path = {str(path)!r} is not a saved model: it has no config.json")
    model, tokenizer = load_pretrained(folder, way_out)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {str(path)!r} has no end-of-sequence token, so responses could not end")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    return Policy(model, tokenizer, chat=has_template if chat is None else chat)


def is_gguf(path: str) -> bool:
    """Whether a model's path names a GGUF file, or a package that holds one."""
    return path.startswith("package:") or path.endswith(".gguf")


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write the policy as a Hugging Face folder (safetensors), which `load_policy` reads back to the bit."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
