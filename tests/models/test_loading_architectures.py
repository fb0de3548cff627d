"""What each architecture is good for: every cell of the table in docs/models.md is a test of this file.

A cell is tried on a tiny network of random weights, which goes through the same code as a real one. The table is made
from `ARCHITECTURES` and `CAPABILITIES`, and compared with the page.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.adapters import IDS, logits, shaken
from helpers.gguf_files import write_gguf
from helpers.toy import toy_task
from transformers import AutoModelForCausalLM

from rango.models import gguf
from rango.models.adapter import add_adapter
from rango.models.loading import load_model
from rango.models.merging import write_merged
from rango.models.peft_format import load_adapter
from rango.models.quantisation import quantised_layers
from rango.options import LoRA, ScoringOptions
from rango.scoring.probe import probe_reader
from rango.scoring.scorer import score
from rango.scoring.trees import encode

Checkpoint = Callable[..., Path]
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LORA = LoRA(rank=2, targets=("q", "v", "mlp"))


def load(folder: Path, _: Path) -> None:
    model = load_model(folder)
    expected = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    torch.testing.assert_close(logits(model), logits(expected), rtol=0, atol=1e-6)


def tree(folder: Path, _: Path) -> None:
    model, task = load_model(folder), toy_task(test=3)
    trees = encode(model, task.test, task=task, form="cloze")
    reader = probe_reader(model)
    assert reader.reads_trees
    values = score(reader, trees, options=ScoringOptions(), form="cloze").values
    for row, one in enumerate(trees):
        for choice, branch in enumerate(one.branches):
            steps = logits(model, torch.tensor([[*one.trunk, *branch]])).log_softmax(-1)[0, len(one.trunk) - 1 : -1]
            expected = steps.gather(1, torch.tensor(branch)[:, None]).sum().item()
            assert values[row, choice] == pytest.approx(expected, abs=2e-4)


def train(folder: Path, _: Path) -> None:
    model = load_model(folder)
    before = {name: parameter.clone() for name, parameter in model.network.named_parameters()}
    adapter = add_adapter(model, LORA, seed=0)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.02)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(logits(model)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    adapter.remove()
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, before[name])


def quantise(folder: Path, _: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("the extra quantise is not installed")
    model, plain = load_model(folder, quantise="nf4"), load_model(folder)
    assert quantised_layers(model.network)
    assert model.fingerprint == plain.fingerprint
    with torch.no_grad():
        near, far = logits(model).flatten(), logits(plain).flatten()
    assert torch.corrcoef(torch.stack([near, far]))[0, 1] > 0.8
    train_loss = logits(model).log_softmax(-1).mean()
    assert torch.isfinite(train_loss)


def merge(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    shaken(model, LORA).save(tmp_path / "adapter")
    write_merged(str(folder), tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    # The adapter is large here, and so are the logits: up to 20.
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=5e-5)


def peft_out(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    shaken(model, LORA).save(tmp_path / "adapter")
    twin = peft.PeftModel.from_pretrained(load_model(folder).network, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(twin), logits(model), rtol=0, atol=1e-5)


def peft_in(folder: Path, tmp_path: Path) -> None:
    network: Any = load_model(folder).network
    options = {"r": 3, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied heads
        twin: Any = peft.get_peft_model(network, peft.LoraConfig(**options, init_lora_weights=False)).eval()
        twin.save_pretrained(str(tmp_path / "adapter"))
    model = load_model(folder)
    load_adapter(model, tmp_path / "adapter")
    torch.testing.assert_close(logits(model), logits(twin), rtol=0, atol=1e-5)


def from_gguf(folder: Path, tmp_path: Path) -> None:
    base = load_model(folder)
    model = load_model(write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer))
    torch.testing.assert_close(logits(model), logits(base), rtol=0, atol=1e-5)


CAPABILITIES: dict[str, Callable[[Path, Path], None]] = {
    "load": load,
    "tree": tree,
    "train": train,
    "quantise": quantise,
    "merge": merge,
    "PEFT out": peft_out,
    "PEFT in": peft_in,
    "GGUF": from_gguf,
}
ARCHITECTURES = {
    "phi": "Phi-1.5, Phi-2",
    "phi3": "Phi-3, Phi-4",
    "llama": "Llama 2, Llama 3, SmolLM2",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX, Pythia",
    "olmo2": "OLMo 2",
    "smollm3": "SmolLM3",
}
UNREAD = {"phi": "phi2", "gpt_neox": "gptneox", "olmo2": "olmo2", "smollm3": "smollm3"}
"""Those whose GGUF files are refused, by llama.cpp's name of the architecture: transformers 5.24 does not read them."""


def cells() -> list[tuple[str, str]]:
    pairs = [(architecture, capability) for architecture in ARCHITECTURES for capability in CAPABILITIES]
    return [(kind, capability) for kind, capability in pairs if capability != "GGUF" or kind not in UNREAD]


@pytest.mark.parametrize(("architecture", "capability"), cells(), ids=["-".join(cell) for cell in cells()])
def test_cell(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, capability: str
) -> None:
    monkeypatch.setenv("RANGO_CACHE", str(tmp_path / "cache"))
    CAPABILITIES[capability](checkpoint(architecture), tmp_path)


def test_the_table_of_the_page_is_that_of_the_tests() -> None:
    assert not set(UNREAD.values()) & gguf._KEYS.keys()
    lines = [f"| Architecture | {' | '.join(CAPABILITIES)} |", f"|---|{'---|' * len(CAPABILITIES)}"]
    for kind, models in ARCHITECTURES.items():
        marks = ["✓" if (kind, capability) in cells() else "no" for capability in CAPABILITIES]
        lines.append(f"| `{kind}` ({models}) | {' | '.join(marks)} |")
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8")
