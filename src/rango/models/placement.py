"""Where LoRA goes: from the names a person knows (q, k, v, o, mlp, head) to an architecture's modules.

One table, `ARCHITECTURES`. Each entry maps a placement to the ends of module names inside one decoder layer. A module
that computes several placements at once (GPT-2's `c_attn` gives q, k and v) is adapted only when all of them are asked
for: adapting it for `q` alone would adapt `k` and `v` too, and the name of the placement would lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import nn
from transformers.pytorch_utils import Conv1D

from rango.errors import InputError, unknown_name
from rango.models.ngram import NGRAM
from rango.options import PLACEMENTS

_Ends = Mapping[str, tuple[str, ...]]

_SPLIT: _Ends = {
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj",),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
# Architectures whose layers are named as Llama's.
_SPLIT_ARCHITECTURES = (
    *("cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2", "qwen2", "qwen3"),
    *("smollm3", "stablelm"),
)


def _fused(qkv: str, output: str, *mlp: str) -> _Ends:
    return {"q": (qkv,), "k": (qkv,), "v": (qkv,), "o": (output,), "mlp": mlp}


_BLOOM = _fused("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")

ARCHITECTURES: Mapping[str, _Ends] = {
    **dict.fromkeys(_SPLIT_ARCHITECTURES, _SPLIT),
    "phi": {**_SPLIT, "o": ("self_attn.dense",), "mlp": ("mlp.fc1", "mlp.fc2")},
    "opt": {**_SPLIT, "o": ("self_attn.out_proj",), "mlp": ("fc1", "fc2")},
    "starcoder2": {**_SPLIT, "mlp": ("mlp.c_fc", "mlp.c_proj")},
    "phi3": _fused("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
    "gpt2": _fused("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": _fused("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    **dict.fromkeys(("bloom", "falcon"), _BLOOM),
    "gpt_neo": {
        "q": ("attn.attention.q_proj",),
        "k": ("attn.attention.k_proj",),
        "v": ("attn.attention.v_proj",),
        "o": ("attn.attention.out_proj",),
        "mlp": ("mlp.c_fc", "mlp.c_proj"),
    },
    "rango_lstm": {},  # its layers are one fused recurrent module; the head is found by itself
    "gptj": {
        "q": ("attn.q_proj",),
        "k": ("attn.k_proj",),
        "v": ("attn.v_proj",),
        "o": ("attn.out_proj",),
        "mlp": ("mlp.fc_in", "mlp.fc_out"),
    },
}

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


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


def place(network: nn.Module, targets: Iterable[str], layers: str | None) -> list[str]:
    """Full names of the modules that `targets` mean in `network`, in the network's own order.

    Args:
        network: a transformers causal language model.
        targets: placements among q, k, v, o, mlp, head.
        layers: which decoder layers, as in `parse_layers`; None for all. The head is in no layer and always kept.

    Raises:
        InputError: an unknown architecture or placement, a placement that the architecture lacks or computes fused.
    """
    targets = list(dict.fromkeys(targets))
    for target in targets:
        if target not in PLACEMENTS:
            raise unknown_name("placement", target, PLACEMENTS)
    model_type = str(network.config.model_type)  # type: ignore[union-attr]
    if model_type == NGRAM:
        raise InputError(
            "the model is an n-gram: a table of counted probabilities has no linear layers for LoRA to adapt; "
            "choose a transformer, or score the n-gram as it is with rango evaluate"
        )
    ends = ARCHITECTURES.get(model_type)
    if ends is None:
        raise InputError(
            f"architecture {model_type!r} is not in the placement table (known: {', '.join(sorted(ARCHITECTURES))}); "
            "add its module names to rango/models/placement.py"
        )
    target_of = _wanted_ends(ends, targets, model_type)
    linear = [name for name, module in network.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    names = [name for name in linear if any(name.endswith("." + end) for end in target_of)]
    # A variant of an architecture may lack a projection that the table names: half of a placement is refused too.
    for end, target in target_of.items():
        if not any(name.endswith("." + end) for name in names):
            raise InputError(
                f"placement {target!r}: this {type(network).__name__} ({model_type}) has no linear module "
                f"named *.{end}; choose another placement"
            )
    if layers is not None:
        chosen = parse_layers(layers, int(network.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]
        names = [name for name in names if layer_of(name) in chosen]
    if "head" in targets:
        names.append(head_name(network))
    return names


def _wanted_ends(ends: _Ends, targets: list[str], model_type: str) -> dict[str, str]:
    """The placement that each wanted end of a module name belongs to."""
    wanted: dict[str, str] = {}
    for target in targets:
        if target not in ends and target != "head":
            raise InputError(
                f"placement {target!r}: {model_type} has no such projection; it has {', '.join([*ends, 'head'])}"
            )
        for end in ends.get(target, ()):
            sharing = [other for other in ends if end in ends[other]]
            lacking = [other for other in sharing if other not in targets]
            if lacking:
                raise InputError(
                    f"placement {target!r}: {model_type} computes {', '.join(sharing)} in one matrix ({end}); "
                    f"name all of them (--lora.targets {','.join(sharing)}) or choose among o, mlp, head"
                )
            wanted[end] = target
    return wanted


def placement_of(network: nn.Module, name: str) -> str | None:
    """The placement that a module belongs to; None of a fused module, which belongs to several."""
    ends = ARCHITECTURES.get(str(network.config.model_type), {})  # type: ignore[union-attr]
    placements = [target for target in ends if any(name.endswith("." + end) for end in ends[target])]
    return placements[0] if len(placements) == 1 else None if placements else "head"


def layer_of(name: str) -> int | None:
    """The decoder layer in a module name; None outside the layers.

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
