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
OTHERS: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
}


NOT_BUILT_TINY = frozenset(
    [
        "bailing_hybrid",
        "bamba",
        "blenderbot",
        "blt",
        "cohere_compass_text",
        "dbrx",
        "deepseek_v2",
        "dory",
        "dots1",
        "dots3_note",
        "dots3_note_text",
        "emu3",
        "falcon_h1",
        "fuyu",
        "gemma3",
        "gemma3n",
        "gemma3n_text",
        "gemma4",
        "gemma4_assistant",
        "gemma4_unified",
        "gemma4_unified_assistant",
        "git",
        "got_ocr2",
        "granitemoehybrid",
        "hunyuan_v1_dense",
        "hunyuan_v1_moe",
        "inkling2_loop_text",
        "inkling2_text",
        "jamba",
        "lfm2_moe",
        "llama4",
        "longcat_flash",
        "mamba2",
        "ministral",
        "mllama",
        "moss_transcribe_diarize",
        "musicgen",
        "musicgen_melody",
        "nemotron",
        "nemotron_h",
        "phi4_multimodal",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen4_exp",
        "qwen4_exp_text",
        "reformer",
        "roc_bert",
        "xlm",
        "xlstm",
        "xmod",
        "zamba",
        "zamba2",
        "zaya",
    ]
)
"""Architectures of transformers 5.24 that these sizes do not fit: images, sound, hybrids and others."""


def tiny_model(architecture: str, **changes: Any) -> Model:
    """A network of four layers.

    Raises:
        Exception: whatever transformers says of a configuration whose sizes do not fit one another.
    """
    kind = CONFIG_MAPPING[architecture]
    defaults = kind().to_dict()
    settings: dict[str, Any] = {}
    for name, value in defaults.items():
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
    config = kind(**{**settings, **OTHERS.get(architecture, {}), **changes})
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if sum(parameter.numel() for parameter in empty.parameters()) > LARGEST:
        raise ValueError("does not become small")
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    return Model(name=architecture, network=network, tokenizer=tiny_tokenizer())


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
