"""N-gram models the slow way, in dictionaries of tuples: the independent implementation of the parity tests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

Gram = tuple[int, ...]


def ngrams(documents: Sequence[Sequence[int]], order: int, *, end: int) -> list[Counter[Gram]]:
    """Counts of the n-grams of orders 1 to N, each document after a start symbol and closed by `end`."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for document in documents:
        path = (end, *document, end)
        for n in range(1, order + 1):
            counts[n - 1].update(path[at - n + 1 : at + 1] for at in range(max(1, n - 1), len(path)))
    return counts


class BruteKneserNey:
    """Interpolated modified Kneser-Ney by its definition."""

    def __init__(self, documents: Sequence[Sequence[int]], order: int, *, vocabulary: int, end: int) -> None:
        self.order, self.vocabulary = order, vocabulary
        raw = ngrams(documents, order, end=end)
        self.seen: list[dict[Gram, int]] = [dict(raw[-1])]
        for n in range(order - 1, 0, -1):
            before: dict[Gram, set[int]] = defaultdict(set)
            for gram in raw[n]:
                before[gram[1:]].add(gram[0])
            adjusted = {gram: len(tokens) for gram, tokens in before.items()}
            if n > 1:
                adjusted |= {gram: count for gram, count in raw[n - 1].items() if gram[0] == end}
            self.seen.insert(0, adjusted)
        self.discounts = [self._estimate(list(seen.values())) for seen in self.seen]

    @staticmethod
    def _estimate(counts: list[int]) -> tuple[float, ...]:
        n1, n2, n3, n4 = (counts.count(j) for j in (1, 2, 3, 4))
        if not (n1 and n2 and n3):
            return (0.5, 1.0, 1.5)
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return found if all(0 <= d <= j for j, d in enumerate(found, 1)) else (0.5, 1.0, 1.5)

    def probability(self, token: int, history: Gram) -> float:
        history = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        return self._probability(token, history)

    def _probability(self, token: int, history: Gram) -> float:
        n = len(history) + 1
        below = self._probability(token, history[1:]) if history else 1 / self.vocabulary
        followers = {gram: count for gram, count in self.seen[n - 1].items() if gram[:-1] == history}
        if not followers:
            return below
        total = sum(followers.values())
        discounts = (0.0, *self.discounts[n - 1])
        gamma = sum(discounts[min(count, 3)] for count in followers.values()) / total
        count = followers.get((*history, token), 0)
        return (count - discounts[min(count, 3)]) / total + gamma * below
