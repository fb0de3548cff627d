"""Posteriors averaged over orders of the options: what a model says of the answers, and less of their places.

    instance ──> its first K orders ── score each ──> posteriors in the columns of the choices ── mean ──> posteriors

A model that reads "A. … B. …" often prefers a letter whatever it stands for. In the mean over orders every choice has
stood at every place equally often (`orders_of`), at K times the cost of one order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rango.console import Screen
from rango.decisions import Posteriors
from rango.decisions.pairing import average_passes
from rango.options import ScoringOptions
from rango.scoring.forward import Reader
from rango.scoring.scorer import ScoredSplit, score_split
from rango.scoring.trees import TokenTree
from rango.tasks import Instance, Task
from rango.tasks.perturbations import Order, check_orders, orders_of, permuted, put_back


def score_orders(
    reader: Reader,
    instances: Sequence[Instance],
    *,
    task: Task,
    options: ScoringOptions,
    orders: int,
    seed: int = 0,
    trees: Sequence[TokenTree] | None = None,
    screen: Screen | None = None,
    score: Callable[..., ScoredSplit] = score_split,
) -> ScoredSplit:
    """`score_split` of each of the first `orders` orders of every instance; the posteriors are their mean.

    With one order the result is that of `score_split`, bit by bit. An instance of K choices has at most K! orders, and
    is averaged over as many as it has.

    Args:
        reader, instances, task, options, screen: as in `score_split`.
        orders: how many; the first is the order of the data.
        seed: of the other orders.
        trees: the instances as tokens in the order of the data, where they are encoded already.
        score: scores the instances of one order, with the arguments of `score_split`, such as over several processes.

    Returns:
        The mean posteriors, with labels and choices as the instances have them; tokens and seconds of all passes, and
        the mean share of probability on the letters.

    Raises:
        InputError: as `score_split`; several orders in the cloze form, which shows none.
    """
    check_orders(orders, options.form or task.default_form)
    # Every instance has its own orders: one order for all would only move a preference for a place elsewhere.
    every = [orders_of(instance, orders, seed=seed) for instance in instances]
    passes: list[tuple[list[int], Posteriors, ScoredSplit]] = []
    for number in range(max(map(len, every), default=1)):
        rows = [row for row, own in enumerate(every) if number < len(own)]
        chosen: list[Order] = [every[row][number] for row in rows]
        originals = [instances[row] for row in rows]
        # The first order is that of the data, which may be in tokens already.
        if number:
            shown = [permuted(one, order) for one, order in zip(originals, chosen, strict=True)]
            scored = score(reader, shown, task=task, options=options, screen=screen)
            passes.append((rows, put_back(scored.posteriors, chosen, originals), scored))
        else:
            scored = score(reader, instances, task=task, options=options, trees=trees, screen=screen)
            passes.append((rows, scored.posteriors, scored))
    if len(passes) == 1:
        return passes[0][2]
    # An instance of few choices is in fewer passes, so a pass counts as often as it has instances.
    masses = [(scored.letter_mass, len(rows)) for rows, _, scored in passes if scored.letter_mass is not None]
    return ScoredSplit(
        posteriors=average_passes([(rows, posteriors) for rows, posteriors, _ in passes]),
        letter_mass=sum(mass * n for mass, n in masses) / sum(n for _, n in masses) if masses else None,
        tokens=sum(scored.tokens for _, _, scored in passes),
        seconds=sum(scored.seconds for _, _, scored in passes),
    )
