"""Tiny random networks of any causal architecture that transformers has, with their limits of length made small."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import torch
from helpers.checkpoints import tiny_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rango.models.loading import Model
from rango.options import ScoringOptions
from rango.scoring.forward import _LENGTH, _OTHER, Reader
from rango.scoring.scorer import score
from rango.scoring.trees import TokenTree

VOCABULARY = 300
LIMIT = 24
LARGEST = 6_000_000  # parameters: what does not shrink is not tried
SIZES = {
    r"^(hidden_size|d_model|n_embd|dim_model|embedding_size|embed_dim|word_embed_proj_dim|lru_width"
    r"|attention_hidden_size|hidden_size_per_layer_input)$": 32,
    r"(intermediate_size|ffn_dim|ffn_hidden_size|^n_inner|^d_inner|^dff|dim_ff|d_ff)": 48,
    r"(num_key_value_heads|num_global_key_value_heads|num_kv_heads)$": 2,
    r"(num_attention_heads|attention_heads|^n_head|^num_heads|index_n_heads|linear_num_(key|value)_heads)$": 4,
    r"^(head_dim|d_head|d_kv|dim_head|kv_channels|global_head_dim|swa_head_dim|swa_v_head_dim|v_head_dim|qk_nope_head_dim"
    r"|qk_head_dim|qk_rope_head_dim|index_head_dim|linear_(key|value)_head_dim|attention_head_dim)$": 8,
    r"(lora_rank|_lowrank)$": 16,
    r"(num_local_experts|num_experts|n_routed_experts|moe_num_experts)$": 4,
    r"(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|top_k_experts)$": 2,
    r"^(n_group|topk_group)$": 1,
    r"^(num_hidden_layers|n_layer|n_layers|num_layers|decoder_layers|num_decoder_layers)$": 4,
    r"^(vocab_size|vocab_size_per_layer_input)$": VOCABULARY,
    r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length)$": 256,
    r"^(initializer_range|init_std)$": 0.2,
    r"mamba_(n_heads|num_heads)$": 4,
    r"mamba_(d_head|head_dim)$": 16,
    r"^(state_size|mamba_d_state|ssm_state_size|mamba_d_ssm)$": 8,
}
MIXED = ["linear_attention", "full_attention"] * 2
ROPE = {"rope_type": "default", "rope_theta": 1e4}
OTHERS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 50, "num_hidden_layers": 4},
    "blt_local_encoder": {"hidden_size_global": 32},
    "blt_local_decoder": {"hidden_size_global": 32},
    "bailing_hybrid": {"num_expert_group": 1, "qk_nope_head_dim": 8},
    "blenderbot": {"encoder_layers": 4, "num_hidden_layers": 4},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: ROPE | {"mrope_section": [2, 1, 1]} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        "n_heads": 4,
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dory": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"mlp_layer_types": ["dense", "sparse"] * 2, "head_dim": 16, "per_layer_config": {}},
    "dots3_note_vision_encoder": {"per_layer_config": {}, "adapter_in_dim": 32, "adapter_out_dim": 32},
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": 48,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": MIXED},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling2_loop_text": {
        "unpadded_vocab_size": VOCABULARY,
        "loop_layer_index_start": 1,
        "loop_layer_index_end": 3,
        "n_layers_per_attn_res_block": 1,
    },
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY, "n_layers_per_attn_res_block": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_dt_rank": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"head_dim": 8, "qk_head_dim": 16, "zero_expert_num": 2, "num_hidden_layers": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 2},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h": {"n_groups": 2},
    "phi4_multimodal_audio": {
        "num_blocks": 1,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "nemo_conv_channels": 32,
    },
    "phi4_multimodal_vision": {"image_size": 56, "crop_size": 56},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": LIMIT,
        "indexer_compress_ratio": 4,
    },
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds": False,
        "attn_layers": ["local"] * 4,
        "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "roc_bert": {"pronunciation_embed_dim": 8, "shape_embed_dim": 8, "shape_vocab_size": 300, "is_decoder": True},
    "xlm": {"emb_dim": 32, "n_heads": 4, "causal": True},
    "xlstm": {"embedding_dim": 128, "num_blocks": 4, "hidden_size": 128},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "use_mamba_kernels": False,
        "mamba_dt_rank": 4,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "hybrid_layer_ids": [1, 3],
        "num_key_value_heads": 4,
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}


NOT_BUILT_TINY = {
    "gemma3n": "its image encoder needs the package timm; its text part is swept as gemma3n_text",
    "gemma4_assistant": "drafts from the keys and values of another model, and reads no text by itself",
    "gemma4_unified_assistant": "drafts from the keys and values of another model, and reads no text by itself",
    "musicgen": "reads several rows of sound codes for each text",
    "musicgen_melody": "reads several rows of sound codes for each text",
}
"""Architectures of transformers 5.24 that are not swept, and why."""


def tiny_model(architecture: str, **changes: Any) -> Model:
    """A network of four layers.

    Raises:
        Exception: whatever transformers says of a configuration whose sizes do not fit one another.
    """
    kind = CONFIG_MAPPING[architecture]
    config = kind(**{**_small(kind().to_dict()), **changes})
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if sum(parameter.numel() for parameter in empty.parameters()) > LARGEST:
        raise ValueError("does not become small")
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return Model(name=architecture, network=network, tokenizer=tiny_tokenizer())


def _small(defaults: dict[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that make it small; those of its parts too (`text_config`, `vision_config`)."""
    settings: dict[str, Any] = {}
    for name, value in defaults.items():
        if isinstance(value, dict) and name.endswith("_config") and name != "per_layer_config":
            settings[name] = _small(value) | {"model_type": value.get("model_type")}
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        size = next((size for pattern, size in SIZES.items() if re.search(pattern, name)), None)
        if size is not None:
            settings[name] = size
        elif isinstance(value, int) and value and _LENGTH.search(name) and not _OTHER.search(name):
            settings[name] = LIMIT
    if "kv_lora_rank" in settings:  # one key for each query
        settings |= {name: 4 for name in settings if "key_value_heads" in name}
    if defaults.get("layer_types"):
        settings["layer_types"] = (list(dict.fromkeys(defaults["layer_types"])) * 4)[:4]
    settings |= {name: 0 for name in ("bos_token_id", "eos_token_id") if name in defaults}
    settings |= {name: 1 for name in ("pad_token_id",) if name in defaults}
    return settings | OTHERS.get(defaults.get("model_type", ""), {})


def trees_around_the_limit() -> list[TokenTree]:
    """Paths and rows below, at and far beyond `LIMIT`; the last four share a beginning of 18 tokens."""
    draw = random.Random(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY - 3) for _ in range(count))

    sizes = [(6, (3, 1, 4)), (10, (5, 6, 3)), (14, (9, 8, 9)), (18, (7, 2, 9)), (24, (1, 2, 9)), (40, (9, 30, 12))]
    sizes += [(70, (30, 20, 40)), (120, (8, 9, 4)), (20, (6, 5, 4))]
    trees = [TokenTree("t", tokens(trunk), tuple(map(tokens, branches)), (1, 1, 1), 0) for trunk, branches in sizes]
    for count in (3, 1, 2):
        trunk = trees[-1].trunk[:18] + tokens(count)
        trees.append(TokenTree("s", trunk, tuple(map(tokens, (4, 5, 2))), (1, 1, 1), 0))
    return trees


@torch.no_grad()
def score_of_path(model: Model, tree: TokenTree, choice: int) -> float:
    """log P(branch | trunk) from one unpadded sequence, of which the last token is predicted and not read."""
    ids = [*tree.trunk, *tree.branches[choice]]
    network: Any = model.network
    log_probabilities = network(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return sum(float(log_probabilities[at - 1, ids[at]]) for at in range(len(tree.trunk), len(ids)))


def largest_difference(reader: Reader, trees: list[TokenTree]) -> float:
    """The largest difference in nats from plain sequences, over sizes of batch and with a shared beginning."""
    truth = np.array([[score_of_path(reader.model, tree, choice) for choice in range(3)] for tree in trees])
    worst = 0.0
    for budget in (64, 4096):
        for rows in (slice(None), slice(-4, None)):
            options = ScoringOptions(batch_tokens=budget)
            values = score(reader, trees[rows], options=options, form="cloze").values
            worst = max(worst, float(np.abs(values - truth[rows]).max()))
    return worst
