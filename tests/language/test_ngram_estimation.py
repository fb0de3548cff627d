"""Counts and smoothings: cases by hand, parity with brute force and nltk, probabilities that sum to one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.brute_ngram import BruteKneserNey, ngrams
from helpers.counted_ngrams import END, SMOOTHINGS, Documents, after, made_documents, network, stream
from hypothesis import given, settings
from hypothesis import strategies as st

from rango.errors import InputError
from rango.language.ngram_estimation import Smoothing, count_ngrams, estimate_discounts


class TestByHand:
    """Two documents, a b and a c, with a = 1, b = 2, c = 3."""

    DOCUMENTS: Documents = [[1, 2], [1, 3]]  # noqa: RUF012

    def test_counts(self) -> None:
        counts = count_ngrams([stream(self.DOCUMENTS)], order=3, vocabulary=4, end=END)
        assert counts.counts[0].tolist() == [2, 2, 1, 1]
        # start a (2), a b, a c, b end, c end
        assert counts.keys[0].tolist() == [0 * 4 + 1, 1 * 4 + 2, 1 * 4 + 3, 2 * 4 + 0, 3 * 4 + 0]
        assert counts.counts[1].tolist() == [2, 1, 1, 1, 1]
        # start a b, start a c, a b end, a c end: their prefixes are bigrams 0, 0, 1, 2
        assert counts.keys[1].tolist() == [0 * 4 + 2, 0 * 4 + 3, 1 * 4 + 0, 2 * 4 + 0]
        assert counts.suffixes[1].tolist() == [1, 2, 3, 4]

    def test_kneser_ney_with_one_discount(self) -> None:
        model = network(self.DOCUMENTS, 2, vocabulary=4, discount=0.5)
        # Distinct tokens before: end 2 (b, c), a 1 (start), b 1, c 1, of 5.
        # gamma(a) = 0.5 * 2 / 2; P(b | a) = (1 - 0.5) / 2 + 0.5 / 5
        assert after(model, 1) == pytest.approx([0.2, 0.1, 0.35, 0.35])
        assert after(model, END) == pytest.approx([0.25 * 0.4, 0.75 + 0.25 * 0.2, 0.05, 0.05])

    def test_maximum_likelihood(self) -> None:
        model = network(self.DOCUMENTS, 3, smoothing="maximum-likelihood", vocabulary=4)
        assert after(model, END, 1) == pytest.approx([0, 0, 0.5, 0.5])
        assert after(model, 2, 1) == pytest.approx([0, 0, 0.5, 0.5])  # b a never stood there: a alone counts
        assert after(model, 1, 2) == pytest.approx([1, 0, 0, 0])

    def test_stupid_backoff(self) -> None:
        model = network(self.DOCUMENTS, 3, smoothing="stupid-backoff", vocabulary=4)
        # seen after start a; otherwise 0.4 per history given up: S(a | start a) = 0.4 * 0.4 * 2/6
        assert after(model, END, 1) == pytest.approx([0.16 * 2 / 6, 0.16 * 2 / 6, 0.5, 0.5])
        assert after(model, 2, 1) == pytest.approx([0.16 * 2 / 6, 0.16 * 2 / 6, 0.2, 0.2])
        # what stands before the start of a document is no history
        assert after(model, 3, END) == after(model, END)

    def test_add_k(self) -> None:
        model = network(self.DOCUMENTS, 3, smoothing="add-k", vocabulary=4, k=0.5)
        assert after(model, END, 1) == pytest.approx([0.125, 0.125, 0.375, 0.375])
        assert after(model, 3, 1) == pytest.approx([0.25] * 4)  # never seen: uniform

    def test_discounts(self) -> None:
        # n1..n4 = 8, 4, 2, 1: Y = 1/2; 1 - 2/2 * 4/8, 2 - 3/2 * 2/4, 3 - 4/2 * 1/2
        assert estimate_discounts(np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 5])) == pytest.approx((0.5, 1.25, 2.0))
        assert estimate_discounts(np.array([1, 1, 3, 3])) == (0.5, 1.0, 1.5)  # nothing occurs twice

    def test_no_ngram_crosses_a_stream_that_was_cut(self) -> None:
        counts = count_ngrams([np.array([1, 2]), np.array([3, 0])], order=2, vocabulary=4, end=END)
        assert counts.keys[0].tolist() == [1, 3, 4 + 2, 12]  # start a, start c, a b, c end; not b c
        assert counts.counts[0].tolist() == [1, 1, 1, 1]


class TestParity:
    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    @pytest.mark.parametrize("count", [3, 60])
    def test_kneser_ney_equals_brute_force(self, order: int, count: int) -> None:
        documents = made_documents(count)
        slow = BruteKneserNey(documents, order, vocabulary=9, end=END)
        model = network(documents, order)
        for text in made_documents(5, seed=1):
            path = (END, *text, END)
            found = model(torch.tensor([path])).logits[0].double().exp()
            for at in range(1, len(path) + 1):
                history = path[at - 1 : at] if path[at - 1] == END else path[:at]
                expected = [slow.probability(token, history) for token in range(9)]
                assert found[at - 1].tolist() == pytest.approx(expected, rel=2e-6)

    def test_counts_equal_brute_force(self) -> None:
        documents = made_documents()
        counts = count_ngrams([stream(documents)], order=4, vocabulary=9, end=END)
        for order, expected in enumerate(ngrams(documents, 4, end=END), start=1):
            assert sorted(c for c in counts.counts[order - 1].tolist() if c) == sorted(expected.values())

    @pytest.mark.parametrize("order", [2, 3])
    @pytest.mark.parametrize("kind", ["kneser-ney", "add-k", "stupid-backoff"])
    def test_nltk(self, kind: Smoothing, order: int) -> None:
        lm = pytest.importorskip("nltk.lm")
        everygrams = pytest.importorskip("nltk.util").everygrams
        documents = made_documents()
        reference = {
            "kneser-ney": lambda: lm.KneserNeyInterpolated(order, discount=0.6),
            "add-k": lambda: lm.Lidstone(0.3, order),
            "stupid-backoff": lambda: lm.StupidBackoff(alpha=0.4, order=order),
        }[kind]()
        words = [[str(token) for token in (END, *document, END)] for document in documents]
        end = (str(END),)
        # The start of a document is no occurrence of the end.
        grams = [[*(g for g in everygrams(path, max_len=order) if g != end), end] for path in words]
        reference.fit(grams, map(str, range(9)))
        assert len(reference.vocab) == 10  # nltk counts its <UNK>
        lidstone = (0.3 * 10, 0.3 * 9)
        model = network(documents, order, smoothing=kind, k=0.3, discount=0.6 if kind == "kneser-ney" else None)
        for first in range(1, 9):
            for second in range(1, 9):
                history = (first, second)[-(order - 1) :]
                context = tuple(map(str, history))
                expected = [reference.score(str(token), context) for token in range(9)]
                if kind == "add-k":  # the same formula over nine tokens
                    seen = reference.context_counts(context).N()
                    expected = [p * (seen + lidstone[0]) / (seen + lidstone[1]) for p in expected]
                assert after(model, *history) == pytest.approx(expected, rel=2e-6)


class TestLaws:
    @given(
        documents=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=8), min_size=1, max_size=12),
        text=st.lists(st.integers(0, 6), min_size=1, max_size=10),
        order=st.integers(1, 5),
        smoothing=st.sampled_from([name for name in SMOOTHINGS if name != "stupid-backoff"]),
        discount=st.none() | st.floats(0, 1),
    )
    @settings(max_examples=150, deadline=None)
    def test_probabilities_sum_to_one(
        self, documents: Documents, text: list[int], order: int, smoothing: Smoothing, discount: float | None
    ) -> None:
        order = min(order, max(map(len, documents)))
        model = network(documents, order, smoothing=smoothing, vocabulary=7, discount=discount)
        totals = model(torch.tensor([text])).logits.double().exp().sum(-1)
        assert totals.tolist() == [pytest.approx([1.0] * len(text), abs=2e-6)]


class TestBadInput:
    def test_no_tokens(self) -> None:
        with pytest.raises(InputError, match="there are no tokens to count; expected at least one document"):
            count_ngrams([np.array([], dtype=np.int64)], order=2, vocabulary=4, end=END)

    def test_a_token_outside_the_vocabulary(self) -> None:
        with pytest.raises(InputError, match=r"token 7 but the vocabulary has 4 \(valid: 0\.\.3\)"):
            count_ngrams([np.array([1, 7])], order=2, vocabulary=4, end=END)

    def test_an_order_that_no_document_has(self) -> None:
        with pytest.raises(InputError, match="order is 5 but no document has 4 tokens, its start and end counted"):
            count_ngrams([np.array([1, 0, 2, 0])], order=5, vocabulary=4, end=END)
