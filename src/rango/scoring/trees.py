"""Token trees: an instance as the tokens that all choices share (trunk) and the tokens of each choice (branches)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from rango.console import Screen
from rango.errors import InputError
from rango.models.gguf import cache_folder
from rango.models.loading import Model
from rango.options import Form, Normalisation
from rango.scoring.token_file import RowTokens, TextTokens, TokenFile, cache_limit, kept_tokens
from rango.tasks import Instance, Prompt, Task
from rango.tasks.task import named

KEPT_FROM = 20_000
"""Instances from which on tokens are kept in the cache; fewer are tokenised in seconds and fit into memory."""
# Part of the cache's key: to be raised with each change of what is written.
_VERSION = "1"
# Instances whose texts are tokenised in one call: enough to keep all cores busy, few enough for 30 MB.
_AT_ONCE = 1000


class TooLongError(InputError):
    """An instance of more tokens than the model reads."""


@dataclass(frozen=True, slots=True)
class TokenTree:
    """One instance in tokens.

        trunk      t0 t1 t2 ┬─ a0 a1       branch 0
                            ├─ b0          branch 1
                            └─ c0 c1 c2    branch 2

    The score of branch k is the sum of log P(token | everything before it on its path), in nats.
    """

    id: str
    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    characters: tuple[int, ...]
    """Length of each choice's text without its leading space, for normalisation by characters."""
    label: int | None
    """The right branch; None where it is not known, which only scoring all choices allows."""
    target: tuple[float, ...] | None = None
    """Soft labels: the share of each branch, where no single one is right."""

    @property
    def answer(self) -> int:
        """The right branch, for training."""
        assert self.label is not None  # training instances have labels
        return self.label

    def lengths(self, normalise: Normalisation) -> tuple[int, ...]:
        """What the score of each choice is divided by: 1, its tokens, or its characters."""
        if normalise == "none":
            return (1,) * len(self.branches)
        return tuple(len(branch) for branch in self.branches) if normalise == "tokens" else self.characters

    @property
    def path_length(self) -> int:
        """Tokens of the longest path from the root."""
        return self.path_length_of(max(self.branches, key=len))

    def path_length_of(self, branch: Sequence[int]) -> int:
        """Tokens of the path that ends in one branch."""
        return len(self.trunk) + len(branch)

    @property
    def input_length(self) -> int:
        """Tokens that a forward pass over the whole tree reads; a branch's last token is only predicted, never read."""
        return len(self.trunk) + sum(len(branch) - 1 for branch in self.branches)

    def after(self, prefix: int) -> TokenTree:
        """The tree without the first `prefix` tokens of its trunk."""
        return replace(self, trunk=self.trunk[prefix:])


class StoredTrees(Sequence[TokenTree]):
    """Trees whose tokens are mapped from a file of the cache; a tree is made when it is asked for, and not kept."""

    def __init__(
        self,
        file: TokenFile,
        instances: Sequence[Instance],
        *,
        numbers: range | None = None,
        skipped: int = 0,
    ) -> None:
        """Trees of instances.

        Args:
            file: a row for each instance, its texts the trunk and the branches.
            instances: which give ids and labels.
            numbers: which of the instances; all when absent.
            skipped: tokens at the beginning of each trunk that are left out, see `TokenTree.after`.
        """
        self._file, self._instances, self._skipped = file, instances, skipped
        self._numbers = range(len(file)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> TokenTree: ...

    @overload
    def __getitem__(self, index: slice) -> StoredTrees: ...

    def __getitem__(self, index: int | slice) -> TokenTree | StoredTrees:
        if isinstance(index, slice):
            return StoredTrees(self._file, self._instances, numbers=self._numbers[index], skipped=self._skipped)
        number = self._numbers[index]
        instance = self._instances[number]
        trunk, *branches = self._file.row(number)
        return TokenTree(
            id=instance.id,
            trunk=tuple(trunk.ids[self._skipped :]),
            branches=tuple(tuple(branch.ids) for branch in branches),
            characters=tuple(branch.number for branch in branches),
            label=instance.label,
            target=instance.target,
        )

    def after(self, prefix: int) -> StoredTrees:
        """The trees without the first `prefix` tokens of their trunks."""
        return StoredTrees(self._file, self._instances, numbers=self._numbers, skipped=self._skipped + prefix)

    def input_lengths(self) -> NDArray[np.int64]:
        """`TokenTree.input_length` of every tree, (N,), without making one."""
        return self._lengths(0)

    def path_lengths(self) -> NDArray[np.int64]:
        """`TokenTree.path_length` of every tree, (N,), without making one."""
        return self._lengths(1)

    def _lengths(self, column: int) -> NDArray[np.int64]:
        chosen = self._numbers  # not negative, and never in reverse
        return self._file.column(column)[chosen.start : chosen.stop : chosen.step] - self._skipped


def input_lengths(trees: Sequence[TokenTree]) -> NDArray[np.int64]:
    """The tokens that a pass over each tree reads, (N,)."""
    if isinstance(trees, StoredTrees):
        return trees.input_lengths()
    return np.fromiter((tree.input_length for tree in trees), dtype=np.int64, count=len(trees))


def after(trees: Sequence[TokenTree], prefix: int) -> Sequence[TokenTree]:
    """The trees without the first `prefix` tokens of their trunks."""
    return trees.after(prefix) if isinstance(trees, StoredTrees) else [tree.after(prefix) for tree in trees]


def encode(model: Model, instances: Iterable[Instance], *, task: Task, form: Form) -> Sequence[TokenTree]:
    """Put instances into words and then into tokens.

    The tokenizer splits `trunk + branch` as a whole, and the trunk's own tokens must be the beginning of that: what is
    scored is what the model would read. In the letter form each branch must be one token, or log P(letter) would be a
    sum over a path that another letter may share.

    Of many instances the tokens are kept in the cache, so that they are found once, and are mapped into memory from
    there (`StoredTrees`); a few are a plain list.

    Raises:
        InputError: a choice whose tokens merge with the trunk's or equal another choice's, a letter of more than one
            token, an instance longer than the model's context (`TooLongError`).
    """
    every = instances if isinstance(instances, Sequence) else list(instances)
    trees: Sequence[TokenTree] | None = None
    if len(every) >= KEPT_FROM and model.tokenizer.is_fast:
        trees = _stored(model, every, task=task, form=form)
    if trees is None:
        trees = list(_encoded(model, every, task=task, form=form))
    _check_lengths(model, every, trees, shots=len(task.shots))
    return trees


def _stored(model: Model, instances: Sequence[Instance], *, task: Task, form: Form) -> StoredTrees | None:
    """The trees in the cache, where they are put unless they are there; None where the cache cannot be written to.

    Those of a table that is private are deleted when this process ends.
    """
    tokenizer: Any = model.tokenizer
    # The prompts themselves are hashed, not the names of what wrote them: other words can never get these tokens.
    how = (_VERSION, tokenizers.__version__, model.special_prefix, tokenizer.split_special_tokens, form)
    digest = hashlib.sha256(repr((*how, tokenizer.backend_tokenizer.to_str())).encode())
    for instance in instances:
        prompt = task.prompt(instance, form)
        digest.update(repr((prompt.trunk, prompt.branches, prompt.characters)).encode())
    rows = (
        RowTokens(
            [TextTokens(tree.trunk, 0), *map(TextTokens, tree.branches, tree.characters)],
            (tree.input_length, tree.path_length),
        )
        for tree in _encoded(model, instances, task=task, form=form)
    )
    private = task.table is not None and task.table.get("private")
    limit = cache_limit()
    try:
        # What is deleted while it is mapped is there for as long as this process needs it, and for nobody else.
        folder: Any = tempfile.TemporaryDirectory() if private else nullcontext(cache_folder() / "tokens")
        with folder as place:
            file = kept_tokens(Path(place), digest.hexdigest()[:32], rows, numbers=2, limit=limit)
    except OSError as error:
        Screen().say(f"tokens are held in memory, as they cannot be kept on the disk ({error}); see RANGO_CACHE")
        return None
    return StoredTrees(file, instances)


def _encoded(model: Model, instances: Sequence[Instance], *, task: Task, form: Form) -> Iterator[TokenTree]:
    """The trees one after the other; errors as in `encode`, but for instances that are too long."""
    for start in range(0, len(instances), _AT_ONCE):
        batch = instances[start : start + _AT_ONCE]
        prompts = [task.prompt(instance, form) for instance in batch]
        texts = [prompt.trunk for prompt in prompts]
        texts += [prompt.trunk + branch for prompt in prompts for branch in prompt.branches]
        # One call for many texts, which the tokenizer works on side by side: the trunks, then each with each branch.
        tokens: list[list[int]] = model.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        paths = iter(tokens[len(batch) :])
        for instance, prompt, trunk in zip(batch, prompts, tokens, strict=False):
            branches = [_branch(instance, prompt, trunk, next(paths), k) for k in range(len(prompt.branches))]
            _check_separable(model, instance, prompt, branches, form)
            yield TokenTree(
                id=instance.id,
                trunk=model.special_prefix + tuple(trunk),
                branches=tuple(branches),
                characters=prompt.characters or tuple(len(branch.strip()) for branch in prompt.branches),
                label=instance.label,
                target=instance.target,
            )


def _branch(instance: Instance, prompt: Prompt, trunk: Sequence[int], path: Sequence[int], k: int) -> tuple[int, ...]:
    shared = len(trunk)
    if list(path[:shared]) != list(trunk) or len(path) == shared:
        raise InputError(
            f"{named(instance)}: the tokenizer does not keep the end of the prompt {prompt.trunk[-20:]!r} apart "
            f"from choice {k} {prompt.branches[k]!r}; begin the choice with a space and end the prompt without one"
        )
    return tuple(path[shared:])


def _check_separable(
    model: Model, instance: Instance, prompt: Prompt, branches: Sequence[tuple[int, ...]], form: Form
) -> None:
    for k, branch in enumerate(branches):
        if form == "letter" and len(branch) != 1:
            pieces = " + ".join(repr(model.tokenizer.decode([token])) for token in branch)
            raise InputError(
                f"{named(instance)}: the tokenizer splits the letter {prompt.branches[k]!r} into {pieces}; "
                "the letter form needs one token, use --form cloze"
            )
        twin = branches.index(branch)  # k itself, unless an earlier branch is equal
        # Real data repeats an answer now and then (SocialIQA does); its two choices share their probability. Texts that
        # differ but have the same tokens would share it silently.
        if twin != k and (form == "letter" or prompt.branches[twin] != prompt.branches[k]):
            raise InputError(
                f"{named(instance)}: choices {twin} ({prompt.branches[twin]!r}) and {k} "
                f"({prompt.branches[k]!r}) are the same tokens; choices must differ for the tokenizer"
            )


def _check_lengths(model: Model, instances: Sequence[Instance], trees: Sequence[TokenTree], *, shots: int) -> None:
    limit = model.context_length
    if limit is None:
        return
    if isinstance(trees, StoredTrees):
        lengths: Iterable[int] = trees.path_lengths()
    else:
        lengths = (tree.path_length for tree in trees)
    for instance, length in zip(instances, lengths, strict=True):
        if length > limit:
            before, fewer = (f" with {shots} shots before it", "take fewer shots, ") if shots else ("", "")
            raise TooLongError(
                f"{named(instance)} is {length} tokens long{before}, {model.name} reads at most {limit}; "
                f"{fewer}shorten the instance or choose a model with a longer context"
            )
