"""Random models of every kind that the sampler and the log-prob pass know, or must not take for one that they know."""

from typing import Any

import pytest
import torch
import transformers as hf

from minicppo.rl.policy import Policy, character_tokenizer

ALPHABET = "abcdefghijklmn"  # 16 tokens with padding and end
COMMON: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "bos_token_id": None, "eos_token_id": 1}
SIZES = COMMON | {"intermediate_size": 40, "num_attention_heads": 4, "max_position_embeddings": 128, "pad_token_id": 0}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MAMBA_MIXER = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
HALF = SIZES | {"head_dim": 6, "num_key_value_heads": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # architecture and configuration
    "qwen3-grouped-tied": ("Qwen3", HALF | {"tie_word_embeddings": True}),
    "qwen3-untied": ("Qwen3", SIZES | {"head_dim": 6, "num_key_value_heads": 4, "tie_word_embeddings": False}),
    "qwen2-biased": ("Qwen2", SIZES | {"num_key_value_heads": 1}),
    "llama-grouped": ("Llama", HALF | {"tie_word_embeddings": False}),
    "llama-tied": ("Llama", HALF | {"tie_word_embeddings": True}),
    "llama-stretched": ("Llama", SIZES | {"num_key_value_heads": 4, "rope_parameters": LLAMA3_ROPE}),
    "gpt-neox": ("GPTNeoX", SIZES),
    "gpt2": ("GPT2", {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 1}),
    "lfm2": ("Lfm2", SIZES | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
    "mistral-window": ("Mistral", HALF | {"sliding_window": 5}),
    # their logits are more than a linear layer of the hidden states
    "gemma2": ("Gemma2", HALF | {"final_logit_softcapping": 2.0}),
    "cohere2": ("Cohere2", HALF | {"logit_scale": 0.25}),
    "granite": ("Granite", HALF | {"logits_scaling": 3.0}),
    "opt": ("OPT", COMMON | {"num_attention_heads": 4, "ffn_dim": 32, "word_embed_proj_dim": 24}),
    # they remember more than keys and values
    "mamba": ("Mamba", COMMON | {"state_size": 4}),
    "falcon-h1": ("FalconH1", HALF | MAMBA_MIXER),
}
SHAPED = ["gemma2", "cohere2", "granite", "opt"]
RECURRENT = ["mamba", pytest.param("falcon-h1", marks=pytest.mark.slow)]  # which takes half a second to import
DIRECT = [name for name in KINDS if name.startswith(("qwen", "llama"))]


def model(name: str, vocabulary: int = 16, **changes: Any) -> Any:
    """Untrained, in evaluation mode."""
    architecture, settings = KINDS[name]
    head = {"GPT2": "LMHeadModel"}.get(architecture, "ForCausalLM")
    torch.manual_seed(0)
    config = getattr(hf, f"{architecture}Config")(vocab_size=vocabulary, **settings | changes)
    return getattr(hf, architecture + head)(config).eval()


def build(name: str) -> Policy:
    """Sharp enough that tokens differ in probability, and an end that comes early now and then."""
    made = model(name)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(3 * parameter if parameter.dim() > 1 else parameter + 0.1 * torch.randn_like(parameter))
    return Policy(made, character_tokenizer(ALPHABET))


def sharp(made: Any, factor: float = 4.0) -> Policy:
    """Without a tokenizer; its tokens differ in probability, its norms are as they were."""
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name and "ln_" not in name:
                parameter.mul_(factor)
    return Policy(made, None)
