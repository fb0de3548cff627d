"""Text to documents, tokens and windows."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from rango.errors import InputError
from rango.language.corpus import (
    END_OF_TEXT,
    Source,
    consecutive_windows,
    read_sources,
    tokenise,
    train_tokenizer,
    windows,
)
from rango.language.words import read_words


def story(lines: int, *, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(2, 5))) for _ in range(60)]
    return [" ".join(generator.choices(words, k=8)) + "." for _ in range(lines)]


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TestReadSources:
    def test_every_kind_of_file_gives_the_same_documents(self, tmp_path: Path) -> None:
        lines = ["One day.", "Él — dos.", "Three."]
        text = "\n\n".join(lines)
        rows = "\n".join(json.dumps({"text": line, "book": "a"}) for line in lines)
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
        (tmp_path / "c.jsonl").write_text(rows, encoding="utf-8")
        (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
        sources = read_sources(sorted(tmp_path.iterdir()))
        assert [source.name for source in sources] == ["a.txt", "b.txt.gz", "c.jsonl", "d.jsonl.gz"]
        assert {source.documents for source in sources} == {tuple(lines)}
        assert len({source.fingerprint for source in sources}) == 1
        assert read_sources(lines)[0].documents == tuple(lines)

    @pytest.mark.parametrize("inside", ["\f", "\v", "\u2028", "\u2029", "\x85", "\x1c"])
    def test_only_the_end_of_a_line_ends_a_document(self, tmp_path: Path, inside: str) -> None:
        path = tmp_path / "a.txt"
        path.write_bytes(f"one{inside}two\r\nthree\n".encode())
        assert read_sources([path])[0].documents == (f"one{inside}two", "three")
        (tmp_path / "words.txt").write_text(f"one\t2{inside}\ntwo words too many\n", encoding="utf-8")
        with pytest.raises(InputError, match=r"words\.txt:2: 'two words too many'; expected a word"):
            read_words(tmp_path / "words.txt")

    def test_a_jsonl_document_keeps_its_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "book.jsonl"
        path.write_text(json.dumps({"text": "a\n\nb"}), encoding="utf-8")
        assert read_sources([path])[0].documents == ("a\n\nb",)

    @pytest.mark.parametrize(
        ("name", "data", "message"),
        [
            ("a.txt", b"", r"a\.txt is empty"),
            ("a.txt", b" \n\n", r"a\.txt is empty"),
            ("a.txt", b"good\n\xff\xfe", r"a\.txt:2: byte 0xff at offset 5 is not UTF-8"),
            ("a.pdf", b"x", r"a\.pdf: ending '\.pdf' is not known; expected \.txt"),
            ("a.jsonl", b'{"body": "x"}', r"a\.jsonl:1: `text` is None; expected a string"),
            ("a.jsonl", b'{"text": "x"}\n{"text": 3}', r"a\.jsonl:2: `text` is 3; expected a string"),
            ("a.jsonl", b'{"text": " "}', r"a\.jsonl has no text; expected at least one line"),
            ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl:1: '\\ud800' is half a surrogate pair"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, name: str, data: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_sources([tmp_path / name])

    def test_bad_lists(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no text given; expected at least one"):
            read_sources([])
        with pytest.raises(InputError, match="documents has no text"):
            read_sources(["", " "])
        with pytest.raises(InputError, match=r"documents: '.udc80' is half a surrogate pair; save the text as UTF-8"):
            read_sources(["good", "bad \udc80"])
        with pytest.raises(InputError, match="missing.txt does not exist"):
            read_sources([tmp_path / "missing.txt"])
        with pytest.raises(InputError, match="texts mix paths and strings"):
            read_sources([tmp_path, "a"])  # type: ignore[list-item]


class TestTokenizer:
    def test_size_round_trip_and_determinism(self) -> None:
        sources = read_sources(story(200))
        tokenizer = train_tokenizer(sources, 300)
        assert len(tokenizer) == 300
        for text in ("abc de", " leading space", "Ünïcode ☃ and\nlines", sources[0].documents[0]):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        again = train_tokenizer(sources, 300)
        assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()

    def test_no_token_is_put_in_front(self) -> None:
        tokenizer = train_tokenizer(read_sources(story(200)), 300)
        assert tokenizer.eos_token == tokenizer.bos_token == END_OF_TEXT
        assert tokenizer.eos_token_id not in tokenizer("abc")["input_ids"]

    def test_a_word_keeps_its_space(self) -> None:
        """So that trunk and branch, split before the space, have the tokens of the whole."""
        tokenizer = train_tokenizer(read_sources(story(200)), 300)
        whole, trunk, branch = (tokenizer(text)["input_ids"] for text in ("ab cde fg", "ab cde", " fg"))
        assert whole == trunk + branch

    def test_vocabulary_that_does_not_fit(self) -> None:
        sources = read_sources(story(50))
        with pytest.raises(InputError, match="vocabulary is 256; expected at least 257"):
            train_tokenizer(sources, 256)
        with pytest.raises(InputError, match="vocabulary is 9000 but the text has pairs for only [0-9]+ tokens"):
            train_tokenizer(sources, 9000)

    def test_a_small_text_has_as_many_tokens_as_stand_in_it_twice(self) -> None:
        sources = read_sources(["ab ab"] * 4)
        # Of all pairs only "a b" and the space before it come back.
        assert len(train_tokenizer(sources)) == 257 + 2
        assert len(train_tokenizer(read_sources(story(50)))) > 257 + 2


class TestTokenise:
    def test_nothing_is_lost_and_the_end_of_each_source_is_held_out(self) -> None:
        sources = [Source("a", tuple(story(600)), "a"), Source("b", tuple(story(300, seed=1)), "b")]
        tokenizer = train_tokenizer(sources, 300)
        corpus = tokenise(sources, tokenizer, context=16)
        texts = [END_OF_TEXT.join((*source.documents, "")) for source in sources]
        total = len(corpus.train) + len(corpus.held_out)
        assert total == sum(len(tokenizer(text)["input_ids"]) for text in texts)
        assert len(corpus.held_out) == pytest.approx(0.01 * total, abs=2)
        first, second = tokenizer.decode(corpus.train).split(texts[1][:40])
        held_out = tokenizer.decode(corpus.held_out)
        # held_out is the tail of a, then the tail of b
        assert held_out.startswith(texts[0][len(first) :])
        assert texts[1] == texts[1][:40] + second + held_out[len(texts[0]) - len(first) :]

    def test_held_out_bytes_are_those_of_the_predicted_tokens(self) -> None:
        sources = read_sources([line + " ☃" for line in story(100)])
        tokenizer = train_tokenizer(sources, 300)
        corpus = tokenise(sources, tokenizer, context=16)
        targets = consecutive_windows(corpus.held_out, context=16)[:, 1:].flatten()
        # latin-1 of the byte-level alphabet: one character a byte; the end of text counts as one byte
        text = tokenizer.decode(targets, skip_special_tokens=False).replace(END_OF_TEXT, "\n")
        cut_characters = text.count("\ufffd")
        assert abs(corpus.held_out_bytes - len(text.encode())) <= 3 * cut_characters

    def test_too_short(self) -> None:
        sources = read_sources(story(20))
        with pytest.raises(InputError, match=r"the text has \d+ tokens; context 512 needs at least 5130"):
            tokenise(sources, train_tokenizer(sources, 260), context=512)


class TestWindows:
    def test_windows_overlap_by_one_token(self) -> None:
        cut = consecutive_windows(np.arange(21, dtype=np.int32), context=5)
        assert cut.tolist() == [
            [0, 1, 2, 3, 4, 5],
            [5, 6, 7, 8, 9, 10],
            [10, 11, 12, 13, 14, 15],
            [15, 16, 17, 18, 19, 20],
        ]

    def test_an_epoch_predicts_each_token_at_most_once(self) -> None:
        stream = np.arange(1000, dtype=np.int32)
        for epoch in range(5):
            targets = windows(stream, context=16, seed=3, epoch=epoch)[:, 1:].flatten()
            assert len(set(targets.tolist())) == len(targets)
            assert len(targets) >= 1000 - 2 * 16

    def test_order_depends_on_seed_and_epoch_alone(self) -> None:
        stream = np.arange(1000, dtype=np.int32)
        first = windows(stream, context=16, seed=3, epoch=0)
        assert np.array_equal(first, windows(stream, context=16, seed=3, epoch=0))
        assert not np.array_equal(first[:5], windows(stream, context=16, seed=3, epoch=1)[:5])
        assert not np.array_equal(first[:5], windows(stream, context=16, seed=4, epoch=0)[:5])

    def test_a_stream_of_one_window(self) -> None:
        assert windows(np.arange(17, dtype=np.int32), context=16, seed=0, epoch=0).shape == (1, 17)
