"""Writing GGUF files of tiny networks as llama.cpp's converter does (convert_hf_to_gguf.py), to test reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAMES = {"gemma3_text": "gemma3", "mistral": "llama"}
Blocks = gguf.GGMLQuantizationType


def written(architecture: str, name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """The numbers of a parameter as the converter writes them."""
    if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
        # From halves (transformers) to pairs (llama.cpp) of rotated dimensions.
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return values + 1
    conv1d = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
    return values.T if architecture == "gpt2" and name.endswith(conv1d) else values


def write_gguf(
    path: Path,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    blocks: Blocks = Blocks.F32,
    pre: str = "gpt-2",
    extra: dict[str, Any] | None = None,
    drop: str = "",
    add: dict[str, np.ndarray] | None = None,
    split: int = 0,
) -> Path:
    """Write a network and its byte-level tokenizer; matrices in `blocks`, the rest in float32.

    `extra` are further keys of the architecture, `drop` ends the name of a tensor that is left out, `add` are further
    tensors, `split` is the largest number of tensors of one part.
    """
    config = network.config
    architecture = NAMES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    if architecture == "gpt2":
        writer.add_context_length(config.n_positions)
        writer.add_block_count(config.n_layer)
        writer.add_embedding_length(config.n_embd)
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_context_length(config.max_position_embeddings)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rotary = config.rope_parameters
        writer.add_rope_freq_base(rotary.get("full_attention", rotary)["rope_theta"])
        if architecture in ("llama", "phi3"):
            writer.add_rope_dimension_count(width)
        if architecture in ("qwen3", "gemma2", "gemma3"):
            writer.add_key_length(width)
            writer.add_value_length(width)
        if architecture.startswith("gemma"):
            writer.add_sliding_window(config.sliding_window)
        if architecture == "gemma2":
            writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            writer.add_final_logit_softcapping(config.final_logit_softcapping)
    for key, value in (extra or {}).items():
        writer.add_key_value(f"{architecture}.{key}", value, gguf.GGUFValueType.get_type(value))
    if tokenizer is not None:
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        special = set(tokenizer.all_special_tokens)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in special else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_add_bos_token(False)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    for parameter, tensor in network.state_dict().items():
        module, _, ending = parameter.rpartition(".")
        name = f"{names.get_name(module)}.{ending}"
        tied = module == "lm_head" and config.tie_word_embeddings
        if tied or (drop and name.endswith(drop)):
            continue
        values = written(architecture, name, tensor.float().numpy(), config)
        kind = blocks if values.ndim > 1 else Blocks.F32
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)
    for name, values in (add or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(network: PreTrainedModel, blocks: Blocks) -> PreTrainedModel:
    """The network with each matrix as its blocks hold it, in place."""
    architecture = NAMES.get(network.config.model_type, network.config.model_type)
    assert architecture != "gpt2"  # its matrices are transposed before they are cut into blocks
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                values = gguf.quants.dequantize(gguf.quants.quantize(parameter.numpy(), blocks), blocks)
                parameter.copy_(torch.from_numpy(values))
    return network
