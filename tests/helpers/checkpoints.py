"""Tiny random checkpoints of real architectures, written as a folder that `load_model` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

import rango.models.loading  # noqa: F401 - makes the LSTM known to transformers

TEXT = [
    "Tracy had tea with Ann. Question: How would Tracy feel? Answer: happy and calm",
    "A. one B. two C. three D. four Answer: A B C D",
    "the quick brown fox jumps over the lazy dog while it rains on the old town",
    "what will Bo do next? go home, sing a song, or ask why the door is open",
]

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "phi": {**SMALL, "num_key_value_heads": 4},
    "phi3": SMALL,
    "llama": SMALL,
    "mistral": SMALL,
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 8},
    "gemma2": {**SMALL, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SMALL, "head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    "olmo2": SMALL,
    "smollm3": SMALL,
    "opt": {
        **{k: v for k, v in SMALL.items() if k not in ("intermediate_size", "num_key_value_heads")},
        "ffn_dim": 48,
        "word_embed_proj_dim": 32,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "rango_lstm": {"hidden_size": 32, "num_hidden_layers": 2},
}


def tiny_tokenizer(texts: list[str] | None = None, *, vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def write_checkpoint(
    folder: Path, architecture: str = "phi", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Write a random model of an architecture and a tokenizer; larger weights than usual, so that scores differ."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    settings = {**ARCHITECTURES[architecture], "vocab_size": len(tokenizer), "initializer_range": 0.2, **changes}
    settings |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = CONFIG_MAPPING[architecture](**settings)
    network = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():  # biases and norms too: zeros would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.02)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_encoder(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random BERT, as pre-trained: without a head for classes."""
    special = ["[PAD]", "[CLS]", "[SEP]"]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(TEXT, trainer)
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    sizes = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
    settings = {**sizes, "vocab_size": len(tokenizer), "initializer_range": 0.1}
    torch.manual_seed(seed)
    BertModel(BertConfig(**{**settings, **changes})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
