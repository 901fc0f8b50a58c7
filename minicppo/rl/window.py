"""What a model can read: tokens that it has a row for, no more of them than its context window takes."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

BY_LENGTH = ("dynamic", "longrope")  # they turn all tokens anew once a row is longer than the first window


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
