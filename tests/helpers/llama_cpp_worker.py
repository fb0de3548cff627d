"""llama.cpp on a GGUF file, in a process of its own: beside torch, its threads end the process.

    python llama_cpp_worker.py MODEL.gguf QUESTIONS.json ANSWERS.npz

QUESTIONS holds `texts`, whose tokens are asked, and `tokens`, a list of sequences whose logits (T, V) are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(model: str, questions: str, answers: str) -> None:
    import llama_cpp
    from llama_cpp import llama_cpp as library

    defaults = library.llama_model_default_params

    def plain() -> Any:
        # Weights in the order that AMX wants crashed in 0.3.36; the results are the same without.
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    library.llama_model_default_params = plain
    # Keys and values in float32 (type 0), as in transformers.
    network = llama_cpp.Llama(model, logits_all=True, verbose=False, n_ctx=512, n_threads=1, type_k=0, type_v=0)
    given = json.loads(Path(questions).read_text())
    answered = {
        f"t{k}": np.array(network.tokenize(text.encode(), add_bos=False, special=True))
        for k, text in enumerate(given["texts"])
    }
    for number, tokens in enumerate(given["tokens"]):
        network.reset()
        network.eval(tokens)
        answered[f"l{number}"] = np.array(network.scores[: len(tokens)], dtype=np.float32)
    np.savez(answers, **answered)


if __name__ == "__main__":
    main(*sys.argv[1:])
