"""Cutting instances into splits: by seed, in given sizes, never through a context or through texts that overlap."""

from __future__ import annotations

import hashlib
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rango.errors import InputError
from rango.options import SPLITS, Split, TaskOptions
from rango.showing import count
from rango.tasks.task import Instance
from rango.tasks.text_runs import shared_runs

Groups = list[list[Instance]]

# Of near-duplicates. Below 40 characters one other word makes another text of it, and texts are alike by chance ("What
# is 7 plus 8?"). 8 bands of 4 values: of the pairs at the limit 98 of 100 become candidates, to be compared exactly.
CHARACTERS, SIMILARITY, FEWEST_CHARACTERS = 5, 0.8, 40
_BANDS, _ROWS = 8, 4
_SKETCHED_AT_ONCE = 1000  # texts whose runs are held at once
Pair = tuple[Instance, Instance]


@dataclass(frozen=True, slots=True)
class Cut:
    """Three splits, the train-side instances outside them, and notes for the user: what was dropped or is missing."""

    train: tuple[Instance, ...]
    validation: tuple[Instance, ...]
    test: tuple[Instance, ...]
    rest: tuple[Instance, ...]
    notes: tuple[str, ...]


def draw_order(instances: Iterable[Instance], *, seed: int, stratum: Callable[[Instance], str] | None = None) -> Groups:
    """Groups in the order in which they are drawn.

    With a `stratum`, each stratum's groups are spread evenly over the order (the j-th of n stands at (j + 1/2) / n), so
    that every front and every back of it holds the strata in their proportions, to within one group each.
    """
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.group, []).append(instance)
    # By hash, not by a generator: rows that are added later leave the order of the others as it was.
    rank = {name: hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8] for name in groups}
    drawn = sorted(groups, key=rank.__getitem__)
    if stratum is not None:
        strata: dict[str, list[str]] = {}
        for name in drawn:
            strata.setdefault(stratum(groups[name][0]), []).append(name)
        place = {name: (j + 0.5) / len(names) for names in strata.values() for j, name in enumerate(names)}
        drawn.sort(key=place.__getitem__)
    return [groups[name] for name in drawn]


def take(groups: Sequence[list[Instance]], size: int) -> tuple[tuple[Instance, ...], int]:
    """The first `size` instances, and how many groups they touch; a group cut by `size` is touched."""
    taken: list[Instance] = []
    touched = 0
    while touched < len(groups) and len(taken) < size:
        taken += groups[touched]
        touched += 1
    return tuple(taken[:size]), touched


def take_whole(groups: Sequence[list[Instance]], size: int) -> tuple[tuple[Instance, ...], Groups]:
    """Whole groups with about `size` instances, and the groups that remain, both in their order.

    A group that would make the split miss its size by more than it does without it is passed over.
    """
    taken: list[Instance] = []
    remaining: Groups = []
    for group in groups:
        missing = size - len(taken)
        if missing > 0 and len(group) - missing <= missing:
            taken += group
        else:
            remaining.append(group)
    # A split needs an instance, however large the groups are.
    if not taken and remaining:
        taken = remaining.pop(min(range(len(remaining)), key=lambda place: len(remaining[place])))
    return tuple(taken), remaining


def cut(
    train: Sequence[Instance],
    options: TaskOptions,
    *,
    validation: Sequence[Instance] = (),
    test: Sequence[Instance] = (),
    stratum: Callable[[Instance], str] | None = None,
    whole: bool = False,
) -> Cut:
    """Cut pools into the three splits in the sizes asked for; where fewer exist, all are taken and a note says so.

    A pool that is given serves its split. Without one, validation is carved from the training pool, and so is test.
    What is carved gets the size asked for where all sizes fit into the pool, or where it is at most half of the pool;
    otherwise at most a fifth of the pool each, whatever training asks for. Training takes what is left.
    Contexts of the test pool are dropped from the other pools, and those of the validation pool from the training pool.

    Args:
        train: the training pool, or everything.
        options: sizes and seed.
        validation: the official pool of the validation split, if any.
        test: the official pool of the test split, if any.
        stratum: names the stratum of an instance, to cut in its proportions.
        whole: where the size of a carved split is no size that somebody gave, take whole groups of about that size, so
            that no instance is lost.

    Raises:
        InputError: too few contexts for three splits.
    """
    # A context is in one split only: test keeps it before validation, validation before training.
    notes: list[str] = []
    held = {instance.group for instance in test}
    kept_validation = _without(validation, held, "validation", "test", notes)
    held_validation = {instance.group for instance in kept_validation}
    kept = _without(_without(train, held, "training", "test", notes), held_validation, "training", "validation", notes)

    given: dict[str, bool] = {
        name: not whole or getattr(options, name) != TaskOptions.model_fields[name].default for name in SPLITS
    }

    def carve(name: Split, groups: Groups, size: int) -> tuple[tuple[Instance, ...], Groups]:
        """A split from the front of these groups, and the groups that can still serve another."""
        if not (given[name] and size == getattr(options, name)) and whole:
            return take_whole(groups, size)
        taken, touched = take(groups, size)
        return taken, groups[touched:]

    seed = options.data_seed
    # Test is taken from the front of the drawn order, validation behind it; a group that a size cuts is used up.
    groups = remaining = draw_order(kept, seed=seed, stratum=stratum)
    wanted_validation, wanted_test = _carved_sizes(len(kept), options, carved=(not validation, not test))
    if test:
        test_split = take(draw_order(test, seed=seed, stratum=stratum), options.test)[0]
    else:
        test_split, remaining = carve("test", remaining, wanted_test)
    if validation:
        validation_split = take(draw_order(kept_validation, seed=seed, stratum=stratum), options.validation)[0]
    else:
        validation_split, remaining = carve("validation", remaining, wanted_validation)
    # Training is taken from the back, so that validation and test stay the same for every size of it.
    train_split, remaining = carve("train", remaining[::-1], options.train)
    rest = tuple(instance for group in remaining[::-1] for instance in group)
    # A test pool alone is enough to evaluate on.
    if (train or not test) and not (train_split and validation_split and test_split):
        raise InputError(
            f"{len(kept) + len(kept_validation) + len(test)} instances with {len(groups)} contexts to train on cannot "
            "be cut into three splits, each with contexts of its own; give more rows"
        )
    notes += [
        f"asked for {wanted:,} {name} instances, "
        + (f"{len(has):,} taken as this split's share of {len(kept):,}" if carved else f"{len(has):,} exist: all taken")
        for key, name, wanted, has, carved in (
            ("train", "training", options.train, train_split, False),
            ("validation", "validation", options.validation, validation_split, not validation),
            ("test", "test", options.test, test_split, not test),
        )
        if len(has) < wanted and given[key]
    ]
    if not any(given.values()) and not validation and not test:
        notes.append(
            f"no sizes were given: cut into {len(train_split):,} training, {len(validation_split):,} validation and "
            f"{len(test_split):,} test instances"
            + (f"; {len(rest):,} are not used (--train and --test take more)" if rest else "")
        )
    # The rest of a group that a size cuts can serve no other split; large groups take many rows with them.
    unused = len(kept) - len(rest) - len(train_split) - len(validation_split) * (not validation)
    unused -= len(test_split) * (not test)
    if unused > len(kept) // 20:
        notes.append(
            f"{unused:,} of {len(kept):,} instances are in no split: their groups were cut at the size of a split, and "
            "no group stands in two"
        )
    return Cut(train_split, validation_split, test_split, rest, tuple(notes))


def _without(pool: Sequence[Instance], held: set[str], name: str, other: str, notes: list[str]) -> Sequence[Instance]:
    kept = [instance for instance in pool if instance.group not in held]
    dropped = len(pool) - len(kept)
    if dropped:
        notes.append(f"{count(dropped, f'{name} instance')} dropped for a context that occurs in the {other} split")
    return kept


def _carved_sizes(n: int, options: TaskOptions, *, carved: tuple[bool, bool]) -> tuple[int, int]:
    """Sizes of the validation and the test split where they are carved from a pool of n (0 where they are not)."""
    validation, test = options.validation * carved[0], options.test * carved[1]
    held = validation + test
    if held + options.train <= n or held <= n // 2:
        return validation, test
    # Independent of the training size, so that a study over training sizes keeps its test set.
    share = max(1, n // 5)
    return min(validation, share), min(test, share)


def group_overlapping(instances: Sequence[Instance]) -> list[Instance]:
    """The instances with one group for all that are linked by shared runs of eight words, in context and right answer.

    Two instances are linked when they share a run of 8 words (case and punctuation ignored), or their context;
    linked ones share the first group name, in alphabetical order, of any of them.
    """
    texts = [f"{instance.context} {instance.choices[instance.answer]}" for instance in instances]
    runs = shared_runs(texts)
    return link(instances, [(one.group, *numbers) for one, numbers in zip(instances, runs, strict=True)])


def link(instances: Sequence[Instance], keys: Iterable[Iterable[int | str]]) -> list[Instance]:
    """The instances with one group for all that share a key, directly or through others: the first of their names."""
    parent = list(range(len(instances)))  # a union-find forest over the instances

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]  # halves the path, so that later look-ups are short
            number = parent[number]
        return number

    first: dict[int | str, int] = {}
    for number, keys_of_one in enumerate(keys):
        for key in keys_of_one:
            one, two = root(first.setdefault(key, number)), root(number)
            parent[max(one, two)] = min(one, two)
    names: dict[int, str] = {}
    for number, instance in enumerate(instances):
        top = root(number)
        names[top] = min(names.get(top, instance.group), instance.group)
    return [replace(instance, group=names[root(number)]) for number, instance in enumerate(instances)]


def near_duplicates(splits: Sequence[Sequence[Instance]]) -> dict[tuple[int, int], list[Pair]]:
    """For each two splits, the instances of the first that have a near-duplicate in the second, with one of them.

    Two texts are nearly the same where the sets of their runs of 5 characters have a Jaccard similarity of at least
    0.8: about one word in twenty differs. MinHash (Broder, 1997) finds the candidates without comparing
    all pairs. Short texts are passed over. Keys are the places of the two splits, the smaller first.
    """
    pairs: dict[tuple[int, int], list[Pair]] = {}
    if sum(any(map(_character_runs, split)) for split in splits) < 2:
        return pairs
    from datasketch import MinHash, MinHashLSH

    # The runs of a text take 10 KB as a set: they are made anew for each comparison, and not kept. A split is compared
    # with indexes of those before it, so that the last, which as a rule is the largest, needs no index of its own.
    runs_again = lru_cache(maxsize=10_000)(lambda split, number: _character_runs(splits[split][number]))
    indexes: list[Any] = []
    for second, split in enumerate(splits):
        matched: list[dict[int, Instance]] = [{} for _ in indexes]  # by the number of the instance in the first split
        index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        for start in range(0, len(split), _SKETCHED_AT_ONCE):
            numbers = range(len(split))[start : start + _SKETCHED_AT_ONCE]
            block = [(number, its) for number in numbers if (its := _character_runs(split[number]))]
            sketches = MinHash.bulk([its for _, its in block], num_perm=_BANDS * _ROWS, hashfunc=zlib.crc32)
            for (number, its), sketch in zip(block, sketches, strict=True):
                for first, earlier in enumerate(indexes):
                    for candidate in earlier.query(sketch):
                        if candidate in matched[first]:
                            continue
                        others = runs_again(first, candidate)
                        if len(its & others) >= SIMILARITY * len(its | others):
                            matched[first][candidate] = split[number]
                if second + 1 < len(splits):
                    index.insert(number, sketch)
        indexes.append(index)
        for first, matches in enumerate(matched):
            if matches:
                pairs[first, second] = [(splits[first][number], matches[number]) for number in sorted(matches)]
    return pairs


def _character_runs(instance: Instance) -> set[bytes]:
    """The runs of characters of an instance's text, case and white space aside; none where it is short."""
    # Of a table's prompts the template is left out: all of them share it.
    text = (instance.fields or {}).get("text") or f"{instance.context} {instance.question}"
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(plain) < FEWEST_CHARACTERS:
        return set()
    return {plain[start : start + CHARACTERS].encode() for start in range(len(plain) - CHARACTERS + 1)}


def near_duplicate_notes(splits: Mapping[str, Sequence[Instance]]) -> list[str]:
    """A note for each two of the named splits where an instance of the first is nearly one of the second."""
    names = tuple(splits)
    notes = []
    for (first, second), pairs in sorted(near_duplicates(tuple(splits.values())).items()):
        one, two = (instance.where or instance.id for instance in pairs[0])
        notes.append(
            f"{len(pairs):,} of {count(len(splits[names[first]]), f'{names[first]} instance')} nearly the same as "
            f"one of the {names[second]} split (such as {one} and {two}); where they have one source, give them one "
            "group"
        )
    return notes
