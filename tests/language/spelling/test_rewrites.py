"""Rewriting a text in one place gives the tokens of the whole text rewritten, at a cost that does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.spelling_corpus import ENGLISH, SPANISH, sentences
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.spelling.checker import SpellChecker
from rango.language.spelling.rewrites import Paths, Place
from rango.language.text_scores import score_texts
from rango.language.words import WordList, count_words
from rango.models.loading import Model, load_model
from rango.unicode_words import sentence_end, words_of

TEXT = sentences(ENGLISH, 150) + sentences(SPANISH, 150)
TEXTS = [
    "The boy eats an aple.  She\treads a bok (at night)… “Our cat drinks milk?” The end",
    "El niño come manzna\nbebe leche <|end|> todos los días.",
    " ¡Ella! ",
    "teh",
]


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer: pieces after white space, whole words, pieces with a mark before every text, or pieces that
    may hold several words.
    """
    if kind == "words":
        made = Tokenizer(models.WordLevel(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer: Any = trainers.WordLevelTrainer(special_tokens=["<|end|>", "<unk>"], show_progress=False)
    else:
        made = Tokenizer(models.BPE(unk_token=None if kind == "pieces" else "<unk>"))
        alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "pieces" else []
        if kind == "pieces":
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = decoders.ByteLevel()
        else:
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            if kind == "marked":
                made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        trainer = trainers.BpeTrainer(
            vocab_size=380, special_tokens=["<|end|>", "<unk>"], initial_alphabet=alphabet, show_progress=False
        )
    made.train_from_iterator(TEXT, trainer)
    unknown = {} if kind == "pieces" else {"unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", **unknown)


@pytest.fixture(scope="module", params=["pieces", "words", "marked", "crossing"])
def model(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Model:
    return Model(request.param, load_model(checkpoint("phi")).network, _tokenizer(request.param))


def places_of(texts: list[str]) -> Iterator[Place]:
    for number, text in enumerate(texts):
        for start, end in words_of(text):
            yield Place(number, start, end, (text[start:end], "zzz", "Niño", "a"))


def whole_paths(model: Model, place: Place, texts: list[str]) -> list[tuple[int, ...]]:
    """The whole text up to the end of the sentence, read anew for each option."""
    text = texts[place.text]
    stop = sentence_end(text, place.end)
    written = [text[: place.start] + option + text[place.end : stop] for option in place.options]
    end = model.tokenizer.eos_token_id
    after = [end] if stop == len(text) else []
    return [(end, *ids, *after) for ids in model.tokenizer(written, add_special_tokens=False)["input_ids"]]


def test_paths_are_those_of_whole_texts(model: Model) -> None:
    places = list(places_of(TEXTS))
    for place, found in zip(places, Paths(model, TEXTS, reach=10_000).of(places), strict=True):
        assert found == whole_paths(model, place, TEXTS)


def test_a_reach_leaves_out_only_what_is_further_from_the_word(model: Model) -> None:
    texts = [" ".join(TEXT[:10])]
    places = list(places_of(texts))
    for place, found in zip(places, Paths(model, texts, reach=3).of(places), strict=True):
        for path, whole in zip(found, whole_paths(model, place, texts), strict=True):
            assert "".join(map("<{}>".format, path)) in "".join(map("<{}>".format, whole))
            assert model.name == "crossing" or len(path) < 60


def test_work_grows_with_the_text_not_with_its_square(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.name == "crossing":
        pytest.skip("such a tokenizer has to read the whole text for each word")
    read: list[int] = []
    original = Paths._written

    def counted(self: Paths, places: Any, parts: Any) -> Any:
        read.append(sum(last - first for first, last in parts))
        return original(self, places, parts)

    monkeypatch.setattr(Paths, "_written", counted)
    amounts = []
    for count in (10, 40):
        texts = [" ".join(TEXT[:count]).replace(".", "")]  # one sentence
        places = list(places_of(texts))
        read.clear()
        tokens = sum(len(path) for paths in Paths(model, texts, reach=4).of(places) for path in paths)
        amounts.append((sum(read) / len(texts[0]), tokens / len(texts[0])))
    assert amounts[1] == pytest.approx(amounts[0], rel=0.2)


def test_an_ngram_judges_a_word_of_a_long_line_as_whole_texts_do(tmp_path: Path) -> None:
    config = PretrainConfig.build({"model": "ngram", "vocabulary": 340, "ngram": {"order": 3}})
    model = load_model(pretrain(TEXT, out=tmp_path / "lm", config=config))
    words = count_words(TEXT)
    text = " ".join(TEXT[:12]) + " The old man raeds a book at night. " + " ".join(TEXT[:5])
    checker = SpellChecker(model, words=WordList(dict(words.counts)))
    found = next(word for word in checker.check([text])[0].words if word.word == "raeds")
    options = ["raeds", *(one.word for one in found.alternatives)]
    language = [one.log_probability for one in score_texts(model, [text.replace("raeds", o) for o in options])]
    channel = [checker.channel.log_probability(one.word, one.distance) for one in found.alternatives]
    joint = [value + extra for value, extra in zip(language[1:], channel, strict=True)]
    for one, other in zip(found.alternatives, joint, strict=True):
        ratio = pytest.approx(math.exp(other - joint[0]), rel=1e-3)
        assert one.probability / found.alternatives[0].probability == ratio
    assert found.alternatives[0].word == "reads"
