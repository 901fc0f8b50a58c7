"""Tiny models of many kinds, from `transformers`' configurations alone: what sampler and scorer must agree on."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from minicppo.rl.policy import Policy, character_tokenizer

ALPHABET = "abcdefghijklmn"  # 16 tokens with padding and end
# one size under every name that configurations have for it
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **{"num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32},
}
# left to right without more ado; each is sampled and scored alike
DECODERS = """afmoe apertus arcee aria_text bart biogpt bitnet bloom cohere cohere2 ctrl diffllama doge ernie4_5
ernie4_5_moe exaone4 falcon gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neox gpt_oss
granite granitemoe helium hunyuan_v1_dense inkling_text jais2 jetmoe lfm2 llama marian mbart minimax_m2 ministral
mistral mixtral moshi mpt nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm""".split()
ENCODERS = "bert roberta electra camembert ernie xlm-roberta megatron-bert rembert roformer data2vec-text".split()


def tiny(name: str, **changes: Any) -> PreTrainedModel:
    """A model of that type and of random weights, sharp enough that its tokens differ in probability."""
    plain = AutoConfig.for_model(name)
    sizes = {key: value for key, value in SIZES.items() if key in {**vars(plain), **plain.attribute_map}}
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": len(ALPHABET) + 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**sizes, **ends, **changes})).float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            elif "norm" not in key and "ln" not in key:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_policy(name: str, **changes: Any) -> Policy:
    """The same with a tokenizer of characters."""
    return Policy(tiny(name, **changes), character_tokenizer(ALPHABET))
