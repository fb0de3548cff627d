"""The network that pre-training begins with: an architecture at the configured sizes, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rango.errors import InputError
from rango.files import read_json
from rango.language.options import MOST_BY_DEFAULT, PretrainConfig
from rango.models.lstm import LSTMConfig, LSTMForCausalLM

_GATED = ("llama", "mistral", "qwen2")  # three matrices in the MLP instead of two, so each is two thirds as wide
# Keys of a config.json that describe its weights, files and kernels, which a fresh network does not have.
_OF_THE_WEIGHTS = (
    *("architectures", "dtype", "torch_dtype", "quantization_config", "transformers_version", "auto_map"),
    *("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation"),
)
_ROUNDING = 1e-6  # of logits at random weights, which are small


def architecture_text(config: PretrainConfig) -> str:
    """The content of the architecture's file as canonical JSON; empty when the architecture is a name.

    Raises:
        InputError: the file is missing, no JSON object, or names no `model_type`.
    """
    if not config.architecture_file:
        return ""
    values = read_json(Path(config.architecture))
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise InputError(
            f"{config.architecture} has no `model_type`; expected the config.json of a transformers causal model"
        )
    return json.dumps(values, sort_keys=True)


def build_network(config: PretrainConfig, *, end_of_text: int) -> PreTrainedModel:
    """A network with random weights drawn from the seed, with the architecture's own initialisation.

    Raises:
        InputError: an architecture file from which transformers makes no causal language model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.model == "lstm":
            network: Any = LSTMForCausalLM(
                LSTMConfig(
                    vocab_size=config.vocabulary or MOST_BY_DEFAULT,
                    hidden_size=config.hidden,
                    num_hidden_layers=config.depth,
                    dropout=config.lstm.dropout,
                    bos_token_id=end_of_text,
                    eos_token_id=end_of_text,
                )
            )
        elif config.architecture_file:
            network = _from_file(config, end_of_text)
        else:
            network = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.for_model(config.architecture, **_sizes(config, end_of_text)), dtype=torch.float32
            )
    assert isinstance(network, PreTrainedModel)
    return network


def _sizes(config: PretrainConfig, end_of_text: int) -> dict[str, Any]:
    """The values of a named architecture's transformers configuration; the rest stays at its defaults."""
    inner = 4 * config.hidden if config.architecture not in _GATED else -(-8 * config.hidden // 3 // 8) * 8
    sizes: dict[str, Any] = {
        "vocab_size": config.vocabulary or MOST_BY_DEFAULT,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }
    if config.architecture == "gpt2":
        # Dropout is for many passes over little text; here it would cost speed.
        sizes |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        sizes |= {"activation_function": "gelu_pytorch_tanh"}
    else:
        sizes |= {"num_key_value_heads": config.heads, "intermediate_size": inner, "pad_token_id": None}
    if config.architecture == "mistral":
        sizes |= {"sliding_window": None}
    if config.architecture == "phi":
        # The same function as Phi's `gelu_new` in one kernel instead of eight: a fifth of a small model's time.
        sizes |= {"hidden_act": "gelu_pytorch_tanh"}
    return sizes


def _from_file(config: PretrainConfig, end_of_text: int) -> PreTrainedModel:
    """The network of a config.json; vocabulary, context and the end of text are those of this pre-training."""
    values = json.loads(architecture_text(config))
    kept = {key: value for key, value in values.items() if key not in _OF_THE_WEIGHTS and key != "model_type"}
    kept |= {"vocab_size": config.vocabulary or MOST_BY_DEFAULT, "pad_token_id": None}
    kept |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    try:
        settings: PreTrainedConfig = AutoConfig.for_model(values["model_type"], **kept)
        if hasattr(settings, "max_position_embeddings"):
            settings.max_position_embeddings = config.context
        network: Any = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)  # type: ignore[no-untyped-call]
        sees_later = _sees_later_tokens(network)
    except Exception as error:
        # Values of any kind may stand in the file, and each architecture fails over them in its own way.
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"{config.architecture}: transformers makes no network of it ({first.strip()[:200]}); "
            "expected the config.json of a causal language model"
        ) from None
    if sees_later:
        raise InputError(
            f"{config.architecture}: a {values['model_type']} sees the tokens that it should predict; "
            "expected the config.json of a causal language model"
        )
    return network  # type: ignore[no-any-return]


@torch.no_grad()
def _sees_later_tokens(network: PreTrainedModel) -> bool:
    """Whether a token changes the logits at the tokens before it, as in a network that is not causal."""
    network.train(False)
    tokens = torch.arange(1, 9)[None]  # (1, 8)
    changed = tokens.clone()
    changed[0, -1] = 0
    before, after = (network(input_ids=ids).logits[0, :-1] for ids in (tokens, changed))  # (7, V)
    network.train()
    return not torch.allclose(before, after, atol=_ROUNDING)
