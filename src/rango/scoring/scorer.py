"""From a model and instances to posteriors: the one scorer behind the letter form and the cloze form.

instances ── encode ──> token trees ── score ──> Scores (N, K) ── as_posteriors ──> Posteriors
                        └──────────────── score_split ───────────────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rango.console import Bar, Screen
from rango.decisions import Posteriors, average_posteriors
from rango.errors import InputError
from rango.models.adapter import Adapter
from rango.models.loading import Model
from rango.options import Form, ScoringOptions
from rango.scoring.forward import Reader, check_numbers, shared_beginning
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, after, encode, input_lengths
from rango.tasks import Instance, Task, few_shot
from rango.tasks.task import posteriors_of

# Of the widest activation of a pass on a CPU (benchmarks/scoring.py), and tokens that feed its products in any case.
_CACHED_BYTES = 2**22
_FEWEST_TOKENS = 256


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of N instances with at most K choices."""

    values: np.ndarray
    """(N, K) float64, nats: log P(branch | trunk), length-normalised if asked; -inf where there is no such choice."""
    letter_mass: np.ndarray | None
    """(N,) share of probability on the K letters, letter form only: the rest went to other tokens."""
    tokens: int
    """Tokens read."""
    seconds: float


@dataclass(frozen=True, eq=False)
class DropoutPasses:
    """MC dropout: score `count` times with the adapter's dropout on; pass t has the masks of (`seed`, t)."""

    adapter: Adapter
    count: int
    seed: int


@dataclass(frozen=True, eq=False)
class ScoredSplit:
    """What a model says of the instances of a split."""

    posteriors: Posteriors
    letter_mass: float | None
    """Mean share of probability on the K letters; letter form only."""
    tokens: int
    """Tokens read."""
    seconds: float


def evaluate(
    model: Model, instances: Sequence[Instance], *, task: Task, options: ScoringOptions | None = None
) -> Posteriors:
    """The posteriors of a model: log-softmax over the choices of log P(choice | prompt).

    Args:
        model: with or without an adapter.
        instances: usually one split of `task`.
        task: puts the instances into words.
        options: prompt form, length normalisation, shots.

    Raises:
        InputError: instances that cannot be encoded, see `encode`; more shots than training instances, or a shot among
            the instances; an instance without a possible choice, see `as_posteriors`.
    """
    options = options or ScoringOptions()
    task = few_shot(task, shots=options.shots, seed=options.shots_seed)
    return score_split(probe_reader(model), instances, task=task, options=options).posteriors


def score_split(
    reader: Reader,
    instances: Sequence[Instance],
    *,
    task: Task,
    options: ScoringOptions,
    trees: Sequence[TokenTree] | None = None,
    dropout: DropoutPasses | None = None,
    scorer: Callable[..., Scores] | None = None,
    screen: Screen | None = None,
) -> ScoredSplit:
    """Put instances into words and tokens, score every choice and turn the scores into posteriors.

    Args:
        reader: of the model, from `probe_reader`.
        instances: usually one split of `task`.
        task: puts the instances into words; with its shots, see `few_shot`.
        options: prompt form, length normalisation, tokens in a batch. Its shots are those of `task` already.
        trees: the instances as tokens, where they are encoded already.
        dropout: the posteriors are then the mean over the passes, a Monte Carlo estimate of the posterior over the
            masks (Gal and Ghahramani 2016, section 4, with dropout in the adapter alone).
        scorer: scores the trees in place of `score`, with the same arguments, such as over several processes.
        screen: where it is shown how many instances are scored, and how long the others take.

    Raises:
        InputError: as `evaluate`; `dropout` of an adapter without any.
    """
    form = options.form or task.default_form
    if trees is None:
        trees = encode(reader.model, instances, task=task, form=form)
    # The bar moves with the tokens, which time goes with: the longest instances are scored first.
    work = int(input_lengths(trees).sum()) * (1 if dropout is None else dropout.count)
    with (screen or Screen(quiet=True)).bar("scoring", work, passing=True) as bar:
        if dropout is None:
            passes = [(scorer or score)(reader, trees, options=options, form=form, bar=bar)]
        else:
            passes = score_samples(reader, trees, dropout=dropout, options=options, form=form, bar=bar)
    # Here and not in `score`: for a run that trains, a score that is no number is a divergence, not bad input.
    for scores in passes:
        for row in np.flatnonzero(np.isnan(scores.values).any(axis=1))[:1]:
            check_numbers(reader.model, scores.values[row], f"instance {instances[row].id}")
    members = [as_posteriors(scores.values, instances) for scores in passes]
    posteriors = members[0] if dropout is None else average_posteriors(members)
    masses = [float(scores.letter_mass.mean()) for scores in passes if scores.letter_mass is not None]
    return ScoredSplit(
        posteriors=posteriors,
        letter_mass=sum(masses) / len(masses) if masses else None,
        tokens=sum(scores.tokens for scores in passes),
        seconds=sum(scores.seconds for scores in passes),
    )


def as_posteriors(scores: np.ndarray, instances: Sequence[Instance]) -> Posteriors:
    """Log-softmax of scores (N, K) in nats, with the instances' labels, ids, groups and choices.

    Raises:
        InputError: an instance all of whose choices are impossible (-inf): no posterior follows from that.
    """
    ruled_out = np.flatnonzero(np.isneginf(scores).all(axis=1))
    if len(ruled_out):
        others = f" (and for {len(ruled_out) - 1:,} of {len(instances):,} others)" if len(ruled_out) > 1 else ""
        raise InputError(
            f"instance {instances[ruled_out[0]].id}: the model gives probability 0 to each of its choices{others}, so "
            "there is no posterior; use a smoothed model (rango pretrain --model ngram --ngram.smoothing kneser-ney)"
        )
    return posteriors_of(instances, scores)


@torch.inference_mode()
def score(
    reader: Reader,
    trees: Sequence[TokenTree],
    *,
    options: ScoringOptions,
    form: Form,
    dropout: Adapter | None = None,
    part: tuple[int, int] = (0, 1),
    bar: Bar | None = None,
) -> Scores:
    """Score every choice of every tree, with all dropout off but that of the adapter `dropout`.

    Trees are sorted by length so that little is padded, and cut into batches by tokens; the scores are in the order of
    `trees`. A beginning that all trunks share, such as shots, is computed once where the model allows it.

    With `part` (p, n) the trees p, p + n, p + 2 n, ... are scored alone. The forward passes are as many for every p, so
    that n processes can go together through a model whose layers are cut over them. `bar` moves by the tokens of the
    trees of each batch, n times as far where there are n parts.
    """
    start = time.perf_counter()
    reader.model.network.train(False)
    if dropout is not None:
        dropout.enable_dropout()
    work = input_lengths(trees)  # (N,)
    # The keys of a prefix fit rows within a window and texts below the length where rotary frequencies change.
    fits = (
        reader.reads_prefix
        and (reader.window is None or max(map(reader.row_length, trees)) <= reader.window)
        and all(tree.path_length <= switch for tree in trees for switch in reader.rope_switches)
    )
    tokens = shared_beginning(trees) if fits else 0
    if tokens:
        reader, trees = reader.after(trees[0].trunk[:tokens]), after(trees, tokens)
    number, parts = part
    cut = [list(batches_by_tokens(reader, trees[n::parts], budget=options.batch_tokens)) for n in range(parts)]
    own = trees[number::parts]
    values = np.full((len(own), max(len(tree.branches) for tree in trees)), -np.inf)
    scored = 0
    # A part with fewer batches than another reads along in the last pass, and forgets what it has read.
    for numbers in cut[number] + [[]] * (max(map(len, cut)) - len(cut[number])):
        chosen = [own[row] for row in numbers] or trees[:1]
        batch = reader.collate(chosen, read="choices", as_trees=reader.as_tree(chosen[0]))
        # float64: with many tokens to a branch, the rounding of their sum could decide between choices.
        sums = torch.zeros(batch.shape[0] * batch.shape[1], dtype=torch.float64, device=batch.tokens.device)
        sums.index_add_(0, batch.owners, reader.log_probabilities(batch).double())
        batch_scores = sums.reshape(batch.shape).cpu().numpy()  # (trees, K)
        for row, tree_scores in zip(numbers, batch_scores, strict=False):
            choices = len(own[row].branches)
            values[row, :choices] = tree_scores[:choices]
        tokens += batch.token_count if numbers else 0
        if bar is not None:
            scored += len(numbers)
            moved = parts * int(sum(work[number + parts * row] for row in numbers))
            bar.advance(moved, f"{min(len(trees), parts * scored):,} of {len(trees):,} instances")
    mass = np.exp(values).sum(axis=1) if form == "letter" else None  # (N,), before any normalisation by length
    for row, tree in enumerate(own):
        values[row, : len(tree.branches)] /= tree.lengths(options.normalise)
    return Scores(values=values, letter_mass=mass, tokens=tokens, seconds=time.perf_counter() - start)


def batches_by_tokens(reader: Reader, trees: Sequence[TokenTree], *, budget: int) -> Iterator[list[int]]:
    """Numbers of trees that make one forward pass: similar in length, at most `budget` tokens with padding.

    On a CPU also at most `cached_tokens`.
    """
    budget = min(budget, cached_tokens(reader.model) or budget)

    def size(tree: TokenTree) -> tuple[bool, int, int]:
        whole = reader.as_tree(tree)
        return whole, reader.row_length(tree), 1 if whole else len(tree.branches)

    sizes = [size(tree) for tree in trees]  # (whether it is one row, tokens of a row, rows)
    # Longest first: if a batch does not fit into memory, it is the first.
    order = sorted(range(len(trees)), key=lambda number: (not sizes[number][0], -sizes[number][1], number))
    batch: list[int] = []
    used = 0
    for number in order:
        whole, _, rows = sizes[number]
        longest = sizes[batch[0]][1] if batch else 0
        if batch and ((used + rows) * longest > budget or whole != sizes[batch[0]][0]):
            yield batch
            batch, used = [], 0
        batch.append(number)
        used += rows
    if batch:
        yield batch


def cached_tokens(model: Model) -> int | None:
    """Tokens whose widest activation stays in a CPU's caches from one step of a layer to the next; None on a GPU.

    Beyond them each addition, activation function and rotation waits for main memory, and the products gain nothing.
    """
    if model.device.type != "cpu":
        return None
    # The widest is what the largest matrix of a layer makes; the head and the embeddings are no part of a layer.
    vocabulary = model.network.config.get_text_config().vocab_size
    shapes = [p.shape for p in model.network.parameters() if p.dim() == 2 and vocabulary not in p.shape]
    widest = max((max(shape) for shape in shapes), default=1) * model.dtype.itemsize
    return max(_FEWEST_TOKENS, _CACHED_BYTES // widest)


def score_samples(
    reader: Reader,
    trees: Sequence[TokenTree],
    *,
    dropout: DropoutPasses,
    options: ScoringOptions,
    form: Form,
    bar: Bar | None = None,
) -> list[Scores]:
    """Score every choice in several passes with the adapter's dropout on, as in training; nothing else drops out.

    The masks of pass t are a function of (seed, t), of the trees and of the tokens of a pass, which decide which trees
    share a batch; they differ between kinds of devices. A beginning that is read once for all trees, such as
    shots, has one mask in each pass. The global random stream is left as it was.

    Raises:
        InputError: an adapter without dropout: every pass would be the same.
    """
    check_dropout(dropout.adapter)
    network, device = reader.model.network, reader.model.device
    passes = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for number in range(dropout.count):
                torch.manual_seed(mask_seed(dropout.seed, number))
                passes.append(score(reader, trees, options=options, form=form, dropout=dropout.adapter, bar=bar))
        finally:
            network.train(False)
    return passes


def mask_seed(*numbers: int) -> int:
    """The seed of a stream of dropout masks that several numbers name, such as a run's seed and a step.

    The generator of the CPU looks at 32 bits of a seed only, so all numbers are hashed into those.

    >>> mask_seed(0, 1) == mask_seed(1, 1)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def check_dropout(adapter: Adapter) -> None:
    """Raise InputError for an adapter that was trained without dropout."""
    if not adapter.lora.dropout:
        raise InputError(
            "the adapter has dropout 0, so MC dropout would give the same posterior each time; train one with "
            "--lora.dropout 0.1, or evaluate without --mc-dropout"
        )
