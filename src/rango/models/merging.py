"""Whole models for other programs: a base with an adapter merged into it, written, and read again to be compared.

    base, in its own type ─┬─ + adapter ─────────── logits ──────┐
                           └─ merged, a matrix at a time, in fp32 │  equal?
                              └─ sharded checkpoint ── logits ────┘

What merging does not change is taken from the base as it is: config.json, tokenizer and generation_config.json. Other
programs, and other versions of transformers, read those files as they read the base's.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from rango.errors import RunError
from rango.files import FULL_RECORD, model_file, read_json, write_json
from rango.models.adapter import Adapter
from rango.models.dequantised import checkpoint_of
from rango.models.loading import Model, load_model, load_network, quiet_transformers
from rango.models.peft_format import load_adapter
from rango.options import Dtype

SHARD_SIZE = "5GB"
"""Of one file of weights: what the Hub recommends, and as much as is in memory beside the model while it is written."""

TOLERANCE: Mapping[Dtype, float] = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference of logits, relative to the largest logit, between base with adapter and what was written."""

_NOTABLE = 0.25
"""Share of the adapter's own effect from which the rounding of merged weights is worth a note."""

# What a tokenizer may consist of. llama.cpp's converter wants tokenizer.model, which transformers does not write again.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_TOKENIZER_FILES = (
    *_VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json"),
)


@dataclass(frozen=True)
class WrittenModel:
    """What a written checkpoint is, measured on the checkpoint itself."""

    architecture: str
    """The transformers class that loads it."""
    dtype: str
    difference: float
    """Largest difference of its logits from those of base and adapter, relative to the largest logit."""
    rounding: float | None
    """That difference (root mean square) as a share of what the adapter changes; None where nothing is known of it."""
    notes: tuple[str, ...]
    """What a user of it should know."""


def write_merged(
    base: str, adapter: Path, folder: Path, *, dtype: Dtype = "auto", shard_size: str = SHARD_SIZE
) -> WrittenModel:
    """Write a base with an adapter merged into it, or a fully fine-tuned model, as a transformers checkpoint.

    W = W₀ + s B A is computed in fp32 and rounded once. One copy of the model is in memory, and a matrix beside it; the
    checkpoint is then loaded again, when that copy is gone, and compared on 32 tokens.

    Args:
        base: the model that the adapter was trained on: a Hub id, a folder, or a GGUF file, whose dequantised weights
            are then merged.
        adapter: the folder of an adapter, or of the checkpoint of full fine-tuning.
        folder: where to write, an empty folder.
        dtype: of the weights. `auto`: the base's own; of full fine-tuning that in which it was trained, float32.
        shard_size: of one file, such as 5GB.

    Raises:
        InputError: the base cannot be loaded, or the adapter is another model's.
        RunError: what was written gives other logits than base and adapter.
    """
    full = (adapter / FULL_RECORD).is_file()
    files = checkpoint_of(base)
    chosen: Dtype = dtype if dtype != "auto" else "float32" if full else stored_dtype(files)
    written = _write(base, files, adapter, folder, chosen, shard_size, full=full)
    again = load_network(str(folder), getattr(torch, chosen), torch.device("cpu"))
    error = (_logits(again, written.tokens) - written.logits).abs()
    difference = float(error.max() / written.logits.abs().max())
    if not difference <= TOLERANCE[chosen]:
        raise RunError(
            f"the merged model does not give the logits of base and adapter (they differ by {difference:.2g} of the "
            f"largest, expected at most {TOLERANCE[chosen]:g}); it is not kept"
        )
    notes, rounding = list(written.notes), None
    if written.effect:
        rounding = float(error.double().square().mean().sqrt()) / written.effect
        if rounding > _NOTABLE:
            notes.append(
                f"rounding to {chosen} changes the logits by {100 * rounding:.0f}% of what the adapter changes; "
                "--dtype float32 keeps all of it"
            )
    return WrittenModel(type(again).__name__, chosen, difference, rounding, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Written:
    """What is kept of the network that was written."""

    tokens: torch.Tensor
    logits: torch.Tensor
    """Of base and adapter, (rows, tokens, vocabulary)."""
    effect: float | None
    """Root mean square of what the adapter changes in them; None for full fine-tuning."""
    notes: tuple[str, ...]


def _write(
    base: str, files: str, adapter: Path, folder: Path, dtype: Dtype, shard_size: str, *, full: bool
) -> _Written:
    """Merge and write. When this returns, the weights are no longer in memory."""
    if full:
        model = load_model(adapter, dtype="float32", device="cpu")
        tokens = _probe_tokens(model)
        logits, effect = _logits(model.network, tokens), None
        model.network.to(getattr(torch, dtype))
    else:
        model = load_model(base, dtype=dtype, device="cpu")
        tokens = _probe_tokens(model)
        before = _logits(model.network, tokens)
        lora = load_adapter(model, adapter)
        assert isinstance(lora, Adapter)
        logits = _logits(model.network, tokens)
        effect = float((logits - before).double().square().mean().sqrt())
        lora.merge(keep=False)
        lora.remove()
    network: Any = model.network
    with quiet_transformers():
        network.save_pretrained(folder, max_shard_size=shard_size)
    config = _write_config(folder, files, dtype, tied=_is_tied(network))
    if (file := model_file(files, "generation_config.json")) is not None:
        shutil.copyfile(file, folder / file.name)
    _write_tokenizer(folder, files, model.tokenizer)
    # Modules refer to each other in rings, so that the network itself would stay until the next garbage collection.
    for parameter in network.parameters():
        parameter.data = parameter.data.new_empty(0)
    return _Written(tokens, logits, effect, _engine_notes(config))


def stored_dtype(base: str) -> Dtype:
    """The type of a model's weights as they are stored: that of its config.json, or else of its first weight file."""
    with quiet_transformers():
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    name = str(getattr(config, "dtype", None)).removeprefix("torch.")
    if name not in TOLERANCE:
        index = model_file(base, "model.safetensors.index.json")
        shards = sorted(set(read_json(index)["weight_map"].values())) if index else ["model.safetensors"]
        file = model_file(base, shards[0])
        kinds = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        if file is not None:
            with safe_open(file, framework="pt") as weights:
                stored = [weights.get_slice(key).get_dtype() for key in weights.keys()]  # noqa: SIM118 - no mapping
            name = next((kinds[kind] for kind in stored if kind in kinds), name)
    return name if name in TOLERANCE else "float32"  # type: ignore[return-value]


def _probe_tokens(model: Model) -> torch.Tensor:
    """Two rows of 16 tokens, (2, 16), the same for every model of this vocabulary."""
    highest = max(model.tokenizer.get_vocab().values())
    return torch.randint(highest + 1, (2, 16), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _logits(network: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = network(tokens).logits.float()  # (2, 16, vocabulary)
    return logits


def _is_tied(network: Any) -> bool:
    """Whether head and embeddings are one matrix; merging into an adapted head has made two of them."""
    head, embeddings = network.get_output_embeddings(), network.get_input_embeddings()
    return getattr(head, "weight", head) is getattr(embeddings, "weight", embeddings)


def _write_config(folder: Path, base: str, dtype: Dtype, *, tied: bool) -> dict[str, Any]:
    """Write config.json as the base has it, with what merging has changed; returns it.

    transformers 5 writes keys that programs made for version 4 do not know (rope_parameters for rope_theta). They would
    take the default instead, and answer wrongly without a word.
    """
    own: dict[str, Any] = read_json(folder / "config.json")
    file = model_file(base, "config.json")
    config = read_json(file) if file is not None else {}
    if config.get("model_type") != own["model_type"] or "text_config" in config:
        config = own
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        config.setdefault("rope_theta", rope["rope_theta"])
    # The weights are no longer quantised, and no code of the base's repository comes along.
    for key in ("quantization_config", "auto_map", "_name_or_path"):
        config.pop(key, None)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    config["architectures"] = own["architectures"]
    # Written even where the base leaves it out: programs differ in what that means.
    config["tie_word_embeddings"] = tied
    write_json(folder / "config.json", config)
    return config


def _write_tokenizer(folder: Path, base: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Copy the base's own tokenizer files; where they are of another kind, write the loaded tokenizer."""
    files = [file for name in _TOKENIZER_FILES if (file := model_file(base, name)) is not None]
    if any(file.name in _VOCABULARIES for file in files):
        for file in files:
            shutil.copyfile(file, folder / file.name)
    else:
        with quiet_transformers():
            tokenizer.save_pretrained(folder)


def _engine_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Where another program would read this checkpoint in another way than transformers does."""
    kind = str(config["model_type"])
    if kind.startswith("rango_"):
        return (f"the architecture {kind} is Rango's own: transformers loads it after `import rango.models.loading`",)
    if kind.startswith("gemma") and not config.get("tie_word_embeddings", True):
        # conversion/gemma.py drops lm_head.weight, and vLLM's Gemma asserts that it is tied.
        return (
            "the head was adapted and is no longer the matrix of the embeddings: transformers reads this Gemma, but "
            "llama.cpp's converter leaves its head out and vLLM refuses it; for those adapt without the head",
        )
    return ()
