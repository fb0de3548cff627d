"""How fast are n-grams counted and scored, in how much memory, and do KenLM and nltk agree?

    python benchmarks/ngram.py [--tokens 10000000] [--order 5] [--data DATA] [--work runs/bench-ngram]

Synthetic: tokens drawn from a Zipf distribution over 50,000 types, each with one of 20 followers half of the time, in
documents of about 100. Memory is the peak of a process that does nothing else. Real text, where DATA is
given: WikiText-2's validation part to learn from and its test part to score, and the Gutenberg stories with every
twentieth paragraph held out; `lmplz` (KenLM's estimator) is compared where it is on the path, reading with
`kenlm` where that is installed, nltk on a small part. The ceiling: one sort per order. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rango.language.arpa import read_arpa, write_arpa
from rango.language.corpus import read_sources, train_word_tokenizer
from rango.language.ngram_estimation import count_ngrams, smooth
from rango.models.loading import Model
from rango.models.ngram import NGramForCausalLM

END = 0
TYPES = 50_000


def zipf(tokens: int, seed: int = 0) -> NDArray[np.int32]:
    """(tokens,) ids; 0 ends a document."""
    generator = np.random.default_rng(seed)
    weights = 1 / np.arange(1, TYPES)
    drawn = 1 + generator.choice(TYPES - 1, tokens, p=weights / weights.sum()).astype(np.int32)
    # Half of the tokens follow from the one before, so that long n-grams repeat as in text.
    table = drawn[generator.integers(0, tokens, (TYPES, 20))]
    follows = generator.random(tokens) < 0.5
    drawn[1:][follows[1:]] = table[drawn[:-1], generator.integers(0, 20, tokens - 1)][follows[1:]]
    drawn[generator.random(tokens) < 0.01] = END
    drawn[-1] = END
    return drawn


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(stream: NDArray[Any], order: int, vocabulary: int) -> NGramForCausalLM:
    counts = count_ngrams([stream], order=order, vocabulary=vocabulary, end=END)
    return NGramForCausalLM.from_tables(smooth(counts, smoothing="kneser-ney"))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def synthetic(tokens: int, order: int) -> dict[str, Any]:
    stream = zipf(tokens)
    before = peak_gb()
    network, seconds = timed(lambda: train(stream, order, TYPES))
    peak = peak_gb()
    batch = torch.from_numpy(stream[:1_000_000].astype(np.int64)).view(-1, 1000)
    rates = sorted(batch.numel() / timed(lambda: network.sequence_log_probabilities(batch))[1] for _ in range(5))
    return {
        "tokens": tokens,
        "order": order,
        "entries": network.config.entries,
        "train_seconds": round(seconds, 1),
        "peak_gb": round(peak, 2),
        "peak_gb_before": round(before, 2),
        "scored_tokens_per_second": round(rates[2]),
    }


def perplexity(network: NGramForCausalLM, documents: Sequence[Sequence[int]]) -> float:
    total, count = 0.0, 0
    for document in documents:
        tokens = torch.tensor([[END, *document, END]])
        total -= float(network.sequence_log_probabilities(tokens).double().sum())
        count += len(document) + 1
    return math.exp(total / count)


def real(name: str, train_lines: list[str], test_lines: list[str], order: int, work: Path) -> dict[str, Any]:
    tokenizer = train_word_tokenizer(read_sources(train_lines), 1_000_000)
    encode = tokenizer.backend_tokenizer.encode_batch
    learn, test = ([encoding.ids for encoding in encode(lines)] for lines in (train_lines, test_lines))
    stream = np.array([token for document in learn for token in (*document, END)])
    network, seconds = timed(lambda: train(stream, order, len(tokenizer)))
    ours = perplexity(network, test)
    row: dict[str, Any] = {
        "text": name,
        "train_tokens": len(stream),
        "order": order,
        "vocabulary": len(tokenizer),
        "rango_seconds": round(seconds, 2),
        "rango_perplexity": round(ours, 3),
    }
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    work.mkdir(parents=True, exist_ok=True)
    if shutil.which("lmplz"):
        # KenLM never counts <unk>; the unknown word is a word like others here.
        words[tokenizer.unk_token_id] = "UNKNOWN-WORD"
        text = "\n".join(" ".join(words[token] for token in document) for document in learn) + "\n"
        (work / "text.txt").write_text(text, encoding="utf-8")
        command = ["lmplz", "-o", str(order), "-S", "1G", "--discount_fallback", "--text", work / "text.txt"]
        command += ["--arpa", work / "kenlm.arpa"]
        _, row["kenlm_seconds"] = timed(lambda: subprocess.run(command, check=True, capture_output=True))
        kenlm_text = (work / "kenlm.arpa").read_text(encoding="utf-8").replace("<unk>", "<no-word>", 1)
        (work / "kenlm.arpa").write_text(kenlm_text.replace("UNKNOWN-WORD", "<unk>"), encoding="utf-8")
        row["kenlm_perplexity"] = round(kenlm_perplexity(work / "kenlm.arpa", test, tokenizer), 3)
    write_arpa(work / "rango.arpa", Model("rango", network, tokenizer))
    row["arpa_perplexity"] = round(kenlm_perplexity(work / "rango.arpa", test, tokenizer), 3)
    back = read_arpa(work / "rango.arpa", tokenizer).network
    assert isinstance(back, NGramForCausalLM)
    row["read_back_perplexity"] = round(perplexity(back, test), 3)
    return row


def kenlm_perplexity(path: Path, documents: Sequence[Sequence[int]], tokenizer: Any) -> float:
    """Perplexity of an ARPA file as KenLM computes it; NaN where kenlm is not installed."""
    try:
        import kenlm
    except ImportError:
        return math.nan
    model = kenlm.Model(str(path))
    words = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    total, count = 0.0, 0
    for document in documents:
        scores = model.full_scores(" ".join(words[token] for token in document))
        total += sum(score for score, _, _ in scores)
        count += len(document) + 1
    return float(10 ** (-total / count))


def nltk_seconds(stream: NDArray[Any], order: int) -> dict[str, float]:
    """Training only: nltk walks all n-grams for each probability of Kneser-Ney."""
    from nltk.lm import KneserNeyInterpolated
    from nltk.util import everygrams

    documents = np.split(stream, np.flatnonzero(stream == END) + 1)[:-1]
    grams = [list(everygrams(["0", *map(str, document)], max_len=order)) for document in documents]
    model = KneserNeyInterpolated(order)
    _, theirs = timed(lambda: model.fit(grams, map(str, range(TYPES))))
    _, ours = timed(lambda: train(stream, order, TYPES))
    score, pairs = model.score, [(str(a), (str(b),)) for b, a in pairwise(stream[:21])]
    _, scored = timed(lambda: [score(token, history) for token, history in pairs])
    return {
        "tokens": len(stream),
        "nltk_seconds": round(theirs, 2),
        "rango_seconds": round(ours, 3),
        "nltk_scored_tokens_per_second": round(len(pairs) / scored, 1),
    }


def texts(data: Path) -> list[tuple[str, list[str], list[str]]]:
    def lines(name: str) -> list[str]:
        with gzip.open(data / "text" / name, "rt", encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]

    books = [json.loads(line)["text"] for line in lines("gutenberg_stories.jsonl.gz")]
    paragraphs = [" ".join(part.split()) for book in books for part in book.split("\n\n") if part.strip()]
    return [
        ("wikitext-2 valid, test", lines("wikitext2_valid.txt.gz"), lines("wikitext2_test.txt.gz")),
        (
            "gutenberg stories",
            [text for number, text in enumerate(paragraphs) if number % 20],
            paragraphs[::20],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/bench-ngram"))
    parser.add_argument("--only-synthetic", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "ngram", "threads": torch.get_num_threads()}
    result["synthetic"] = synthetic(arguments.tokens, arguments.order)
    print(result["synthetic"], flush=True)
    if not arguments.only_synthetic:
        try:
            result["nltk"] = nltk_seconds(zipf(100_000), 3)
            print(result["nltk"], flush=True)
        except ImportError:
            print("nltk is not installed", file=sys.stderr)
        if arguments.data is not None:
            result["real"] = [real(*text, order, arguments.work) for text in texts(arguments.data) for order in (3, 5)]
            for row in result["real"]:
                print(row, flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
