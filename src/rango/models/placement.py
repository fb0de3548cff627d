"""Where LoRA goes: from the names a person knows (q, k, v, o, mlp, head) to an architecture's modules.

One table, `ARCHITECTURES`. Each entry maps a placement to the ends of module names inside one decoder layer. Where one
matrix computes several projections (GPT-2's `c_attn` gives q, k and v), `attn.c_attn:q` is its outputs that are q, and
an update of them alone: "q" means in every architecture what it means in Llama, with as many trained numbers.

    all-linear          every linear map of the decoder layers, whole
    self_attn.q_proj    the linear maps whose names end so, whole: for any architecture
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError, unknown_name
from rango.models.lora import Slice, weight_shape
from rango.models.ngram import NGRAM
from rango.options import ALL_LINEAR, PLACEMENTS

_Ends = Mapping[str, tuple[str, ...]]

_ATTENTION: _Ends = {name: (f"self_attn.{name}_proj",) for name in ("q", "k", "v", "o")}
_SPLIT: _Ends = {**_ATTENTION, "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}
_GATE_UP = ("mlp.gate_up_proj:gate", "mlp.gate_up_proj:up", "mlp.down_proj")
# Architectures whose layers are named as Llama's.
_SPLIT_ARCHITECTURES = (
    *("bitnet", "cohere", "cohere2", "cwm", "diffllama", "ernie4_5", "exaone", "exaone4", "gemma", "gemma2"),
    *("gemma3_text", "granite", "granite_swa", "helium", "hyperclovax", "internlm3", "iquestcoder", "llama"),
    *("ministral3", "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3", "seed_oss", "smollm3", "stablelm"),
    "vaultgemma",
)
# Experts are tensors of three dimensions and no linear maps: only the attention of these can be adapted.
_MIXTURES = (
    *("cohere2_moe", "flex_olmo", "gpt_oss", "granitemoe", "minimax_m2", "mixtral", "olmoe", "phimoe", "qwen2_moe"),
    "qwen3_moe",
)


def _fused(qkv: str, output: str, *mlp: str) -> _Ends:
    return {**{name: (f"{qkv}:{name}",) for name in ("q", "k", "v")}, "o": (output,), "mlp": mlp}


_BLOOM = _fused("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_GPT2 = _fused("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")

ARCHITECTURES: Mapping[str, _Ends] = {
    **dict.fromkeys(_SPLIT_ARCHITECTURES, _SPLIT),
    **dict.fromkeys(_MIXTURES, _ATTENTION),
    **{name: {**_ATTENTION, "mlp": ("mlp.up_proj", "mlp.down_proj")} for name in ("apertus", "arcee", "jais2")},
    **{name: {**_ATTENTION, "mlp": _GATE_UP} for name in ("glm", "glm4")},
    **dict.fromkeys(("gpt2", "gpt_bigcode", "openai-gpt"), _GPT2),
    **dict.fromkeys(("bloom", "falcon"), _BLOOM),
    "phi": {**_ATTENTION, "o": ("self_attn.dense",), "mlp": ("mlp.fc1", "mlp.fc2")},
    "opt": {**_ATTENTION, "o": ("self_attn.out_proj",), "mlp": ("fc1", "fc2")},
    "nanochat": {**_ATTENTION, "mlp": ("mlp.fc1", "mlp.fc2")},
    "starcoder2": {**_ATTENTION, "mlp": ("mlp.c_fc", "mlp.c_proj")},
    "phi3": _fused("self_attn.qkv_proj", "self_attn.o_proj", *_GATE_UP),
    "gpt_neox": _fused("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "persimmon": _fused("self_attn.query_key_value", "self_attn.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "codegen": _fused("attn.qkv_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"),
    "mpt": _fused("attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj"),
    "gpt_neo": {
        **{name: (f"attn.attention.{name}_proj",) for name in ("q", "k", "v")},
        "o": ("attn.attention.out_proj",),
        "mlp": ("mlp.c_fc", "mlp.c_proj"),
    },
    "gptj": {
        **{name: (f"attn.{name}_proj",) for name in ("q", "k", "v")},
        "o": ("attn.out_proj",),
        "mlp": ("mlp.fc_in", "mlp.fc_out"),
    },
    "rango_lstm": {},  # its layers are one fused recurrent module; the head is found by itself
}

_Layout = tuple[int, Mapping[str, int]]
"""Into how many equal blocks a fused matrix's outputs are cut, and the shares of its parts in each, in their order."""

_THIRDS: _Layout = (1, {"q": 1, "k": 1, "v": 1})
_HALVES: _Layout = (1, {"gate": 1, "up": 1})


def _by_head(config: Any) -> _Layout:
    return config.num_attention_heads, {"q": 1, "k": 1, "v": 1}


def _one_key(config: Any) -> _Layout:
    """Multi-query attention: all heads share one key and one value."""
    return 1, {"q": config.num_attention_heads, "k": 1, "v": 1}


def _falcon(config: Any) -> _Layout:
    if config.new_decoder_architecture:
        groups = config.num_kv_heads
        return groups, {"q": config.num_attention_heads // groups, "k": 1, "v": 1}
    return _one_key(config) if config.multi_query else _by_head(config)


# As the modelling code of transformers cuts them.
_QKV_LAYOUTS: Mapping[str, Callable[[Any], _Layout]] = {
    **dict.fromkeys(("gpt2", "mpt", "openai-gpt"), lambda _: _THIRDS),
    **dict.fromkeys(("bloom", "gpt_neox", "persimmon"), _by_head),
    "codegen": lambda _: (4, {"q": 1, "v": 1, "k": 1}),
    "falcon": _falcon,
    "gpt_bigcode": lambda config: (_one_key if config.multi_query else _by_head)(config),
    "phi3": lambda c: (1, {"q": c.num_attention_heads, "k": c.num_key_value_heads, "v": c.num_key_value_heads}),
}


@dataclass(frozen=True)
class Site:
    """One update: a linear map, or a slice of its outputs."""

    name: str
    """The module's full name."""
    placement: str
    """What it is: q, k, v, o, mlp or head; where the table has no name for the module, the end of its own."""
    part: str = ""
    """Which of the projections of a fused module it is, such as q; empty for the whole module."""
    slice: Slice | None = None
    """The outputs of that projection; None for all."""


_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def parse_layers(text: str, count: int) -> frozenset[int]:
    """Layer numbers from `"0-7"` or `"0,2,5-7"`; the first layer is 0.

    >>> sorted(parse_layers("0,2-3", 4))
    [0, 2, 3]

    Raises:
        InputError: not such a list, or a number outside 0..count-1.
    """
    chosen: set[int] = set()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            raise InputError(
                f"lora.layers is {text!r}: {part!r} is not a layer or a range; write for example 0-7 or 0,3"
            )
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last >= count:
            raise InputError(f"lora.layers is {text!r}: {part} is outside the model's layers 0..{count - 1}")
        chosen.update(range(first, last + 1))
    return frozenset(chosen)


def place(network: nn.Module, targets: Iterable[str], layers: str | None) -> list[Site]:
    """The updates that `targets` mean in `network`, in the network's own order; each module or slice once.

    Args:
        network: a transformers causal language model.
        targets: placements among q, k, v, o, mlp, head; all-linear; ends of module names, such as self_attn.q_proj.
        layers: which decoder layers, as in `parse_layers`; None for all. What is in no layer, as the head, is kept.

    Raises:
        InputError: an unknown placement or module; an architecture that the table lacks, where a placement other than
            the head is asked for; a placement that the architecture lacks; one module both whole and in part.
    """
    config: Any = network.config.get_text_config()  # type: ignore[union-attr, operator]
    if config.model_type == NGRAM:
        raise InputError(
            "the model is an n-gram: a table of counted probabilities has no linear layers for LoRA to adapt; "
            "choose a transformer, or score the n-gram as it is with rango evaluate"
        )
    linear = linear_maps(network)
    chosen: dict[tuple[str, str], Site] = {}
    # A module that two targets mean, as q and by its name, has one update.
    for target in targets:
        for site in _sites(network, target, linear, config):
            chosen.setdefault((site.name, site.part), site)
    for name, part in chosen:
        if part and (name, "") in chosen:
            raise InputError(
                f"lora.targets {','.join(targets)} adapts {name} whole and in part ({part}); leave one of them out"
            )
    order = {name: number for number, name in enumerate(linear)}
    sites = sorted(chosen.values(), key=lambda site: (order[site.name], site.slice.start if site.slice else 0))
    if layers is not None:
        numbers = parse_layers(layers, int(config.num_hidden_layers))
        sites = [site for site in sites if layer_of(site.name) is None or layer_of(site.name) in numbers]
    if not sites:
        raise InputError(f"lora.targets {','.join(targets)} is nowhere in lora.layers {layers}; change one of them")
    return sites


def _sites(network: nn.Module, target: str, linear: Mapping[str, nn.Module], config: Any) -> Iterator[Site]:
    """The updates that one target means, over all layers; errors as in `place`."""
    kind = str(config.model_type)
    if target == "head":
        yield Site(head_name(network), target)
    elif target == ALL_LINEAR:
        yield from (Site(name, _placement_of(name, kind)) for name in linear if layer_of(name) is not None)
    elif target in PLACEMENTS:
        ends = ARCHITECTURES.get(kind)
        if ends is None:
            raise InputError(
                f"architecture {kind!r} is not in the table of placements, so nothing says what {target!r} is; use "
                f"{ALL_LINEAR}, head, or ends of the names of its linear maps: {', '.join(linear_endings(linear))}"
            )
        if target not in ends:
            raise InputError(
                f"placement {target!r}: {kind} has no such projection; it has {', '.join([*ends, 'head'])}"
            )
        for end, _, part in (end.partition(":") for end in ends[target]):
            names = [name for name in linear if name.endswith(f".{end}") and layer_of(name) is not None]
            # A variant of an architecture may lack a projection that the table names: half of a placement is refused.
            if not names:
                raise InputError(
                    f"placement {target!r}: this {type(network).__name__} ({kind}) has no linear module "
                    f"named *.{end}; choose another placement"
                )
            for name in names:
                outputs, _ = weight_shape(linear[name])
                yield Site(name, target, part, _slice(config, part, outputs) if part else None)
    else:
        names = [name for name in linear if f".{name}".endswith(f".{target}")]
        if not names:
            raise unknown_name("placement", target, [*PLACEMENTS, ALL_LINEAR, *linear_endings(linear)])
        yield from (Site(name, _placement_of(name, kind)) for name in names)


def _placement_of(name: str, kind: str) -> str:
    """What a whole module is called: its placement in the table, or the end of its name."""
    if layer_of(name) is None:
        return "head"
    ends = ARCHITECTURES.get(kind, {})
    return next((target for target in ends for end in ends[target] if name.endswith(f".{end}")), ending(name))


def _slice(config: Any, part: str, outputs: int) -> Slice:
    """The outputs of one part of a fused matrix."""
    blocks, shares = _HALVES if part in _HALVES[1] else _QKV_LAYOUTS[config.model_type](config)
    names = list(shares)
    unit = outputs // (blocks * sum(shares.values()))
    before = sum(shares[name] for name in names[: names.index(part)])
    return Slice(blocks, before * unit, (before + shares[part]) * unit)


def linear_maps(network: nn.Module) -> dict[str, nn.Module]:
    """The linear maps of the decoder and the head by their full names, in the network's own order.

    What else a network has, such as the encoder of images before a decoder, is not adapted.
    """
    decoder, head = network.get_decoder(), network.get_output_embeddings()  # type: ignore[operator]
    inside = {id(module) for module in decoder.modules()} | {id(head)}
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) in inside
    }


def linear_endings(linear: Iterable[str]) -> list[str]:
    """The different ends of the names of linear maps, from the layer's number on.

    >>> linear_endings(["h.0.attn.c_attn", "h.0.mlp.c_fc", "h.1.attn.c_attn", "lm_head"])
    ['attn.c_attn', 'mlp.c_fc', 'lm_head']
    """
    return list(dict.fromkeys(ending(name) for name in linear))


def ending(name: str) -> str:
    """The end of a module's name, from its last number on; the whole name where it has none."""
    return re.split(r"(?:^|\.)\d+\.", name)[-1]


def placement_of(network: nn.Module, name: str) -> str | None:
    """The placement that a module belongs to; None of a fused module, which belongs to several."""
    ends = ARCHITECTURES.get(str(network.config.model_type), {})  # type: ignore[union-attr]
    placements = [target for target in ends if any(name.endswith("." + end) for end in ends[target])]
    return placements[0] if len(placements) == 1 else None if placements else "head"


def layer_of(name: str) -> int | None:
    """The decoder layer in a module name, its first number; None outside the layers.

    >>> layer_of("model.layers.3.self_attn.q_proj")
    3
    """
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def head_name(network: nn.Module) -> str:
    """The name of the output head.

    Raises:
        InputError: the network has none.
    """
    head = network.get_output_embeddings()  # type: ignore[operator]
    for name, module in network.named_modules():
        if module is head:
            return str(name)
    raise InputError(f"placement 'head': {type(network).__name__} has no output head; choose another placement")
