"""A policy: a `transformers` causal language model and its tokenizer, built from scratch or loaded from a folder."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
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
NOW = datetime(2026, 1, 1, 12)  # what a chat template that asks for the time is told, always: a run must be repeatable
DIRECTIVES = [f"%{flag}{letter}" for flag in ("-", "") for letter in "dmHIMSjyaAbBcpUwWxXYZ%"]
CLOCK = (  # laid over the function of the same name, for values that are given to a template lose their methods
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f".replace({name!r}, {NOW.strftime(name)!r})" for name in DIRECTIVES)
    + " }}{%- endmacro %}\n"
)
BARRED = -3e4  # added to a logit: its probability is 0, and its log-prob still finite, in half precision too
BY_LENGTH = ("dynamic", "longrope")  # ropes that turn all tokens anew once a row is longer than the first window


@dataclass(frozen=True)
class Policy:
    """A model and its tokenizer.

    Attributes:
        chat: wrap every prompt in the tokenizer's chat template.
        autocast: lower precision of forward passes (log-probs are taken in float32 all the same); None: as stored.
        whole_vocabulary: also the ids that no token has may be sampled: for log-probs that another library computes.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool = False
    autocast: torch.dtype | None = None
    whole_vocabulary: bool = False

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, chat template included where the policy has one.

        A start token that the tokenizer puts before texts is there once, whatever the template does; what it puts
        after them, an end, is not.
        """
        if self.chat:
            turn = [{"role": "user", "content": prompt}]
            with reading(Path(self.tokenizer.name_or_path), "mend its chat template, or model.chat=false"):
                template = self.tokenizer.get_chat_template()
                clock = CLOCK if "strftime_now" in template else ""
                settings = {"chat_template": clock + template, "tokenize": False, "add_generation_prompt": True}
                prompt = str(self.tokenizer.apply_chat_template(turn, **settings))
        bare, whole = (list(self.tokenizer(prompt, add_special_tokens=add)["input_ids"]) for add in (False, True))
        starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
        bos, before = self.tokenizer.bos_token_id, whole[: next(starts, 0)]
        before = before or [bos] * (whole[:1] == [bos])
        while bos in before and bare[:1] == [bos]:
            bare = bare[1:]
        return ([bos] * (bos in before) if self.chat else before) + bare

    def decode(self, ids: list[int]) -> str:
        """Text of a response. Only the final end-of-sequence token is dropped: a stray special token stays visible."""
        if ids and ids[-1] in self.ends:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @property
    def eos_id(self) -> int:
        """The tokenizer's end-of-sequence token, with which a demonstration ends."""
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens at which a response ends: those of the tokenizer, `generation_config` and `config`."""
        holders = [self.tokenizer, *(getattr(self.model, name, None) for name in ("generation_config", "config"))]
        holders += [holder.get_text_config() for holder in holders if hasattr(holder, "get_text_config")]
        found = [getattr(holder, "eos_token_id", None) for holder in holders]
        lists = [ids if isinstance(ids, list) else [ids] for ids in found if ids is not None]
        return tuple(sorted({end for ends in lists for end in ends}))

    def barred(self, vocabulary: int) -> Tensor | None:
        """(V,) float32, to add to V logits: `BARRED` for ids that no token has, 0 for others; None if all have one."""
        every = self.whole_vocabulary or self.tokenizer is None
        return None if every else _barred(self.tokenizer, len(self.tokenizer), vocabulary, self.device)

    @property
    def pad_id(self) -> int:
        """The token in the padding; it may equal `eos_id`, so masks are made from lengths and never from ids."""
        pad = self.tokenizer.pad_token_id
        return int(self.eos_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def precision(self) -> AbstractContextManager[object]:
        """The autocast context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else nullcontext()


@lru_cache(8)
def _barred(tokenizer: PreTrainedTokenizerBase, tokens: int, vocabulary: int, device: torch.device) -> Tensor | None:
    """tokens: their number, for a tokenizer can grow."""
    bar = torch.full((vocabulary,), BARRED)
    bar[[token for token in tokenizer.get_vocab().values() if token < vocabulary]] = 0
    return bar.to(device) if bool(bar.any()) else None


_PARAMETERS: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()  # counting takes a millisecond


def layer_parameters(model: PreTrainedModel) -> int:
    """Parameters that every token passes: the base model's without embeddings, one at least."""
    if model not in _PARAMETERS:
        _PARAMETERS[model] = max(model.base_model.num_parameters(exclude_embeddings=True), 1)
    return _PARAMETERS[model]


def require_room(model: PreTrainedModel, prompt: int, response: int) -> None:
    """Raise ValueError where a prompt and a response of so many tokens do not fit, with the numbers and a way out.

    With a `BY_LENGTH` rope the first window is the limit. Beyond, cached keys are turned otherwise than in one pass
    over the row, and a row otherwise than beside shorter ones: sampler and scorer would disagree.
    """
    config: Any = model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None) or 0
    reason, ropes = "its context window", getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *ropes.values()):  # one for all layers, or one for each kind of layer
        if isinstance(rope, dict) and rope.get("rope_type") in BY_LENGTH:
            window = min(window, rope.get("original_max_position_embeddings") or window)
            reason = f"beyond which its {rope['rope_type']} rope turns all tokens anew"
    if 0 < window < prompt + response:
        raise ValueError(
            f"a prompt of {prompt} tokens and a response of up to {response} do not fit into the {window} positions of "
            f"{config.model_type}, {reason}. Way out: max_new_tokens={max(window - prompt, 1)}, or shorter prompts"
        )


def require_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, ids: list[int]) -> None:
    """Raise ValueError, naming the token, where an id is beyond the rows of the model's embedding."""
    rows, last = len(model.get_input_embeddings().weight), max(ids)
    if last >= rows:
        raise ValueError(
            f"the token {tokenizer and tokenizer.convert_ids_to_tokens(last)!r} has the id {last}, and the model's "
            f"embedding has {rows} rows. Way out: model.resize_token_embeddings({last + 1}), or the model's tokenizer"
        )


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

    Raises FileNotFoundError without such a folder, file or package, ValueError without an end-of-sequence token, with
    a template of tokens that the model has no row for, or where a file is damaged (with `way_out`).
    """
    folder = model_folder(path)
    model, tokenizer = load_pretrained(folder, way_out)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {str(path)!r} has no end-of-sequence token, so responses could not end")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    policy = Policy(model, tokenizer, chat=has_template if chat is None else chat)
    require_rows(model, tokenizer, [policy.eos_id, policy.pad_id, *policy.encode("")])
    return policy


def model_folder(path: str | Path) -> Path:
    """The Hugging Face folder of `load_policy`'s path. Raises FileNotFoundError without such."""
    if is_gguf(str(path)):
        from minicppo.rl.gguf import folder_of  # optional packages

        path = folder_of(str(path))
    if str(path).startswith(HUB):
        from huggingface_hub import snapshot_download

        path = snapshot_download(str(path).removeprefix(HUB))
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model.path = {str(path)!r} is not a saved model: it has no config.json")
    return folder


def is_gguf(path: str) -> bool:
    """Whether a model's path names a GGUF file, or a package that holds one."""
    return path.startswith("package:") or path.endswith(".gguf")


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write the policy as a Hugging Face folder (safetensors), which `load_policy` reads back to the bit."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
