"""`rango pretrain --model ngram`: the folder, the words, a tokenizer from elsewhere, what is refused."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pretraining import ngram
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rango.cli import main
from rango.console import Screen
from rango.decisions import read_posteriors
from rango.errors import InputError
from rango.files import read_yaml
from rango.language.arpa import read_arpa
from rango.language.corpus import UNKNOWN, read_sources, tokenise, train_tokenizer, train_word_tokenizer
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.models.loading import load_model
from rango.tasks import simulated_narratives

TEXT = list(simulated_narratives(400, seed=0))


class TestFolder:
    def test_record_and_held_out_loss(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        out = pretrain(TEXT, out=tmp_path / "lm", config=ngram(order=3, arpa=True), screen=Screen())
        said = " ".join(capfd.readouterr().err.split())
        assert "tokens of 1 source in " in said
        assert "nats/token" in said
        model = load_model(out)
        record = read_yaml(out / "pretrain.yaml")
        assert PretrainConfig.build(record["config"]) == ngram(order=3, arpa=True)
        assert record["parameters"] == model.parameter_count
        assert record["vocabulary"] == record["entries"][0] == 400
        assert len(record["discounts"]) == 3
        sources = read_sources(TEXT)
        corpus = tokenise(sources, train_tokenizer(sources, 400), context=3)
        count = (len(corpus.held_out) - 1) // 3 * 3
        tokens = torch.from_numpy(corpus.held_out[: count + 1].astype(np.int64))[None]
        logits = model.network(tokens[:, :-1]).logits
        loss = -logits.gather(-1, tokens[:, 1:, None]).double().mean().item()
        assert record["held_out"]["held_out_nats_per_token"] == pytest.approx(loss, abs=2e-6)
        bits = loss * count / corpus.held_out_bytes / math.log(2)
        assert record["held_out"]["held_out_bits_per_byte"] == pytest.approx(bits, abs=2e-6)
        back = read_arpa(out / "model.arpa", model.tokenizer)
        torch.testing.assert_close(back.network(tokens).logits, model.network(tokens).logits, atol=1e-6, rtol=0)
        assert not list(tmp_path.glob(".*"))

    def test_longer_histories_help_and_impossible_is_infinite(self, tmp_path: Path) -> None:
        losses = {}
        for order in (1, 2, 3):
            out = pretrain(TEXT, out=tmp_path / str(order), config=ngram(order=order))
            losses[order] = read_yaml(out / "pretrain.yaml")["held_out"]["held_out_nats_per_token"]
        assert losses[1] > losses[2] > losses[3] > 0
        out = pretrain(TEXT, out=tmp_path / "ml", config=ngram(order=5, smoothing="maximum-likelihood"))
        assert read_yaml(out / "pretrain.yaml")["held_out"]["held_out_nats_per_token"] == math.inf

    def test_repeating_leaves_it_and_another_configuration_is_refused(self, tmp_path: Path) -> None:
        out = pretrain(TEXT, out=tmp_path / "lm", config=ngram(order=2))
        before = (out / "model.safetensors").stat().st_mtime_ns
        assert pretrain(TEXT, out=out, config=ngram(order=2)) == out
        assert (out / "model.safetensors").stat().st_mtime_ns == before
        with pytest.raises(InputError, match="already holds something else"):
            pretrain(TEXT, out=out, config=ngram(order=3))

    def test_the_command_line(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
        options = ["--ngram.order", "2", "--ngram.smoothing", "add-k", "--ngram.k", "0.5", "--ngram.unit", "words"]
        command = ["pretrain", str(tmp_path / "text.txt"), "--model", "ngram", *options, "--quiet"]
        assert main([*command, "--out", str(tmp_path / "lm")]) == 0
        config = load_model(tmp_path / "lm").network.config
        assert (config.model_type, config.smoothing, len(config.entries)) == ("rango_ngram", "add-k", 2)


class TestCountedElsewhere:
    @pytest.mark.parametrize("unit", ["tokens", "words"])
    def test_an_arpa_file_becomes_the_model_that_wrote_it(self, tmp_path: Path, unit: str) -> None:
        counted = pretrain(TEXT, out=tmp_path / "counted", config=ngram(order=3, unit=unit, arpa=True))
        packed = tmp_path / "model.arpa.gz"
        packed.write_bytes(gzip.compress((counted / "model.arpa").read_bytes()))
        flags = ["--model", "ngram", "--tokenizer", str(counted), "--out", str(tmp_path / "read"), "--quiet"]
        assert main(["pretrain", str(packed), *flags]) == 0
        first, second = (load_model(folder) for folder in (counted, tmp_path / "read"))
        tokens = torch.randint(0, first.network.config.vocab_size, (4, 12), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(second.network(tokens).logits, first.network(tokens).logits, atol=1e-6, rtol=0)
        assert main(["pretrain", str(packed), *flags]) == 0  # complete already
        record = read_yaml(tmp_path / "read" / "pretrain.yaml")
        assert record["entries"] == read_yaml(counted / "pretrain.yaml")["entries"]
        assert record["texts"][0]["name"] == "model.arpa.gz"
        assert "held_out" not in record

    @pytest.mark.usefixtures("plain_page")
    def test_it_can_be_evaluated(self, tmp_path: Path) -> None:
        counted = pretrain(TEXT, out=tmp_path / "counted", config=ngram(order=2, arpa=True))
        read = pretrain([counted / "model.arpa"], out=tmp_path / "read", config=ngram(tokenizer=counted))
        found = []
        for folder in (counted, read):
            out = tmp_path / f"{folder.name}-evaluated"
            assert main(["evaluate", str(folder), "simulated", "--test", "8", "--out", str(out), "--quiet"]) == 0
            found.append(read_posteriors(out / "posteriors" / "test-base.parquet").log_posteriors)
        np.testing.assert_allclose(found[1], found[0], atol=1e-5)

    @pytest.mark.parametrize(
        ("texts", "changes", "message"),
        [
            (
                ["a.arpa"],
                {"tokenizer": None},
                r"a\.arpa: which tokenizer has its words as tokens\? Give --tokenizer FOLDER",
            ),
            (
                ["a.arpa"],
                {"order": 2},
                r"a\.arpa: its n-grams are counted and smoothed already; leave the ngram options",
            ),
            (["a.arpa", "b.txt"], {}, r"a\.arpa is a whole model and 1 other texts are given; give it alone"),
            (["a.arpa"], {"model": "lstm"}, r"a\.arpa holds n-grams and model is lstm; give --model ngram"),
            (["none.arpa"], {}, r"none\.arpa does not exist"),
            (["a.arpa"], {}, r"a\.arpa:2: 'ngram 1=0'; expected at least one 1-gram"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, texts: list[str], changes: dict[str, Any], message: str) -> None:
        train_tokenizer(read_sources(TEXT), 300).save_pretrained(tmp_path / "tokenizer")
        (tmp_path / "a.arpa").write_text("\\data\\\nngram 1=0\n", encoding="utf-8")
        config = ngram(**{"tokenizer": tmp_path / "tokenizer"} | changes)
        with pytest.raises(InputError, match=message):
            pretrain([tmp_path / text for text in texts], out=tmp_path / "lm", config=config)
        assert {path.name for path in tmp_path.iterdir()} == {"tokenizer", "a.arpa"}


class TestTokenizers:
    def test_words(self) -> None:
        tokenizer = train_word_tokenizer(read_sources(["Ann doesn't sing, Bo sings.", "Ann sings (once)."]), 300)
        known = ["Ann", "sings", "."]
        assert sorted(tokenizer.get_vocab()) == sorted(["<|endoftext|>", UNKNOWN, *known])
        words = tokenizer.convert_ids_to_tokens(tokenizer("Ann doesn't  sings...")["input_ids"])
        assert words == ["Ann", UNKNOWN, "sings", ".", ".", "."]
        assert tokenizer(f"{UNKNOWN} Ann")["input_ids"][0] == tokenizer.unk_token_id

    @pytest.mark.parametrize(
        ("text", "tokens"),
        [
            ("यह हिन्दी भाषा है।", "यह हिन्दी भाषा है ।"),
            ("العَرَبِيَّةُ تَمام", "العَرَبِيَّةُ تَمام"),
            ("می\u200cخواهم नमस्\u200dते co\u00adop", "می\u200cخواهم नमस्\u200dते co\u00adop"),
            ("หนังสือดี", "ห นั ง สื อ ดี"),  # a letter and its marks: no dictionary in a tokenizer
            ("她很好。", "她 很 好 。"),
            ("don't x2 l’eau col·lega, 3.5", "don't x2 l’eau col·lega , 3 . 5"),
        ],
    )
    def test_words_of_every_script_are_whole(self, text: str, tokens: str) -> None:
        tokenizer = train_word_tokenizer(read_sources([text, text]), 50)
        assert tokenizer.tokenize(text) == tokens.split()

    def test_the_most_frequent_words_are_kept(self) -> None:
        tokenizer = train_word_tokenizer(read_sources(["a a a b b b b c c"]), 4)
        assert set(tokenizer.get_vocab()) == {"<|endoftext|>", UNKNOWN, "a", "b"}

    def test_no_word_twice(self) -> None:
        with pytest.raises(InputError, match="no word stands twice in the text, so all would be <unk>"):
            train_word_tokenizer(read_sources(["one two three"]), 300)

    @pytest.mark.parametrize("unit", ["words", "tokens"])
    @given(text=st.lists(st.text("aé ☃😀.x", min_size=1), min_size=12, max_size=20))
    @settings(max_examples=25, deadline=None)
    def test_held_out_bytes_are_those_of_the_text(self, unit: str, text: list[str]) -> None:
        sources = read_sources([f"x {line} x x" for line in text])
        tokenizer = train_word_tokenizer(sources, 300) if unit == "words" else train_tokenizer(sources, 257)
        corpus = tokenise(sources, tokenizer, context=1)
        total = sum(len(document.encode()) + 1 for document in sources[0].documents)
        assert 0 < corpus.held_out_bytes < total

    def test_that_of_an_existing_model(self, tmp_path: Path) -> None:
        first = pretrain(TEXT, out=tmp_path / "one", config=ngram(order=2))
        second = pretrain(TEXT[:200], out=tmp_path / "two", config=ngram(order=3, tokenizer=first))
        tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (first, second)]
        assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
        small = {"hidden": 16, "layers": 1, "heads": 2, "context": 16, "tokens": 256, "tokenizer": first}
        third = pretrain(TEXT, out=tmp_path / "three", config=PretrainConfig.build(small))
        assert load_model(third).network.config.vocab_size == 400
        record = read_yaml(third / "pretrain.yaml")
        assert record["vocabulary"] == 400
        assert PretrainConfig.build(record["config"]) == PretrainConfig.build(small)

    def test_the_bytes_of_one_text_do_not_depend_on_the_tokenizer(self, tmp_path: Path) -> None:
        bits = {}
        for unit in ("words", "tokens"):
            out = pretrain([*TEXT, *TEXT], out=tmp_path / unit, config=ngram(order=1, unit=unit))
            held_out = read_yaml(out / "pretrain.yaml")
            bits[unit] = held_out["held_out"]["held_out_bits_per_byte"]
        assert 0.5 < bits["words"] < bits["tokens"] < 4


class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "changes", "message"),
        [
            ([], {}, "no text given"),
            (["  "], {}, "has no text; expected at least one line"),
            (["a b a b"], {"unit": "words"}, r"the text has 5 tokens; ngram.order 3 needs at least 40: add text"),
            (["a b"] * 40, {"unit": "words", "order": 3}, "ngram.order is 3 but the longest document has 2 tokens"),
            (TEXT, {"tokenizer": "missing"}, "tokenizer missing is not a folder; give the folder of an existing model"),
        ],
    )
    def test_nothing_is_left_behind(
        self, tmp_path: Path, texts: list[str], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            pretrain(texts, out=tmp_path / "lm", config=ngram(**changes))
        assert not list(tmp_path.iterdir())

    def test_a_folder_without_tokenizer(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no tokenizer; put the model"):
            pretrain(TEXT, out=tmp_path / "lm", config=ngram(tokenizer=tmp_path))

    def test_unknown_characters_are_the_unknown_word(self, tmp_path: Path) -> None:
        out = pretrain(TEXT, out=tmp_path / "lm", config=ngram(order=2, unit="words"))
        model = load_model(out)
        ids = model.tokenizer("漢字 ☃")["input_ids"]
        assert set(ids) == {model.tokenizer.unk_token_id}
        assert torch.isfinite(model.network(torch.tensor([ids])).logits[0, 0, ids[1]])
