"""Tools and environments: a policy that writes bytes calls them in several turns, on TRL's own loop.

A capital letter opens a call, the rest of the turn is its argument; an eighth of the bytes ends a turn.
"""

from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.rl.policy import Policy
from tests.engines.stale import tiny_policy
from tests.engines.test_trl_features import PROMPTS, trained
from tests.engines.trl_setup import works

if not hasattr(PreTrainedTokenizerBase, "get_response_parser"):
    pytest.skip("this transformers reads no calls by response_template", allow_module_level=True)

CHAT = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}{% for call in turn.tool_calls or [] %}"
    "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLED = {"name": "look_up", "arguments": {"word": "{content}"}}
CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {
        "tool_calls": {
            "open_pattern": "[A-Z]",
            "close_pattern": "$",
            "content": "text",
            "transform": [{"type": "function", "function": CALLED}],
        },
        "content": {"close_pattern": r"<\|end\|>", "content": "text"},
    },
}


def policy_in_bytes() -> Policy:
    bytes_ = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    bytes_.pre_tokenizer, bytes_.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="<|end|>", pad_token="<|pad|>", chat_template=CHAT,
        additional_special_tokens=[f"<|{role}|>" for role in ("user", "assistant", "tool")],
    )  # fmt: skip
    tokenizer.response_template = CALLS
    model = tiny_policy().model
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    for holder in (model.config, model.generation_config):  # else transformers puts the tokenizer's in their place
        holder.pad_token_id, holder.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(0, 256, 8)]
    return Policy(model, tokenizer)


def look_up(word: str) -> str:
    """Count letters.

    Args:
        word: whose letters are counted.
    """
    return f"{len(word)} letters"


class Library:
    def reset(self, **_: Any) -> None:
        self.asked = 0

    def look_up(self, word: str) -> str:
        """Count letters.

        Args:
            word: whose letters are counted.
        """
        self.asked += 1
        return f"question {self.asked}: {len(word)} letters"


TURNS = [
    works("`tools` in several turns", {"tools": [look_up]}),
    works("`environment_factory`: an environment's tools, in several turns", {"environment_factory": Library}),
]


@pytest.mark.slow
@pytest.mark.parametrize("given", TURNS)
def test_tools_are_called_in_several_turns(given, tmp_path):
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS])
    lengths = {"max_completion_length": 96, "max_tool_calling_iterations": 2}
    trainer, loop = trained(tmp_path, policy_in_bytes(), train_dataset=data, **lengths, **given)
    row, parts = trainer.state.log_history[0], trainer._buffered_inputs
    assert row["tools/call_frequency"] > 0.2
    written = torch.cat([part["completion_mask"] * part["tool_mask"] for part in parts])
    assert (written.diff(dim=1) > 0).any(), "nothing was written after a tool's answer"
    assert max(loop.apart) < 2e-5
    assert row["mismatch/drift"] < 1e-5
    assert any(loop.masked), "the mask is idle"
