"""Token trees: an instance as the tokens that all choices share (trunk) and the tokens of each choice (branches)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rango.errors import InputError
from rango.models.loading import Model
from rango.options import Form, Normalisation
from rango.tasks import Instance, Prompt, Task
from rango.tasks.task import named


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


def encode(model: Model, instances: Iterable[Instance], *, task: Task, form: Form) -> list[TokenTree]:
    """Put instances into words and then into tokens.

    The tokenizer splits `trunk + branch` as a whole, and the trunk's own tokens must be the beginning of that: what is
    scored is what the model would read. In the letter form each branch must be one token, or log P(letter) would be a
    sum over a path that another letter may share.

    Raises:
        InputError: a choice whose tokens merge with the trunk's or equal another choice's, a letter of more than one
            token, an instance longer than the model's context.
    """
    batch = list(instances)
    prompts = [task.prompt(instance, form) for instance in batch]
    texts = [prompt.trunk for prompt in prompts]
    texts += [prompt.trunk + branch for prompt in prompts for branch in prompt.branches]
    if not texts:
        return []
    # One call for all texts, which the tokenizer works on side by side: the trunks, then every trunk with each branch.
    tokens: list[list[int]] = model.tokenizer(texts, add_special_tokens=False)["input_ids"]
    paths = iter(tokens[len(batch) :])
    trees = []
    for instance, prompt, trunk in zip(batch, prompts, tokens, strict=False):
        branches = [_branch(instance, prompt, trunk, next(paths), k) for k in range(len(prompt.branches))]
        _check_separable(model, instance, prompt, branches, form)
        tree = TokenTree(
            id=instance.id,
            trunk=model.special_prefix + tuple(trunk),
            branches=tuple(branches),
            characters=prompt.characters or tuple(len(branch.strip()) for branch in prompt.branches),
            label=instance.label,
        )
        _check_length(model, instance, tree, shots=len(task.shots))
        trees.append(tree)
    return trees


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


def _check_length(model: Model, instance: Instance, tree: TokenTree, *, shots: int) -> None:
    limit = model.context_length
    if limit is not None and tree.path_length > limit:
        before, fewer = (f" with {shots} shots before it", "take fewer shots, ") if shots else ("", "")
        raise InputError(
            f"{named(instance)} is {tree.path_length} tokens long{before}, {model.name} reads at most {limit}; "
            f"{fewer}shorten the instance or choose a model with a longer context"
        )
