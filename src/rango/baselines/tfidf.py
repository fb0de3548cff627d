"""TF-IDF with logistic regression: what the words alone give away, without any language model.

Where all instances have the same choices, a text is classified:

    features of an instance = TF-IDF of context and question          fit_classes

Where choices are texts of their own, each choice is right or wrong:

    features of a choice = TF-IDF of the choice | the same weights where the context has the word too      fit_choices

The context's other words would be the same for all choices of an instance and cancel in the posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rango.baselines.regression import Fitted, check_fittable, fit_choices, fit_classes
from rango.errors import InputError
from rango.options import SPLITS
from rango.tasks import Instance, Task

_WORD = r"(?u)\b\w+\b"
"""scikit-learn's own pattern leaves out words of one letter, which may be all that tells two answers apart."""


def fit_tfidf(task: Task) -> Fitted:
    """Posteriors from the words of the instances. Words and pairs of words are weighted by what training holds of them.

    A word is a run of letters, digits and underscores in small letters: of a script without spaces, a whole phrase.

    The weights are (1 + ln count) · (1 + ln((1 + texts) / (1 + texts with the word))), of unit length in a text. C is
    chosen on validation; nothing is random.

    Raises:
        InputError: no instances to train or to validate on; texts without words.

    Source: Salton and Buckley (1988), with scikit-learn's smoothing.
    """
    check_fittable(task)
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD)
    of_choices = task.classes is None
    texts = [_context(instance) for instance in task.train]
    if of_choices:
        texts += [choice for instance in task.train for choice in instance.choices]
    try:
        vectorizer.fit(texts)
    except ValueError:  # an empty vocabulary
        raise InputError(f"the training instances of {task.name} hold no words; tfidf needs texts of words") from None
    if of_choices:
        return fit_choices({split: choice_features(vectorizer, task.split(split)) for split in SPLITS}, task)
    contexts = {split: [_context(instance) for instance in task.split(split)] for split in SPLITS}
    return fit_classes({split: vectorizer.transform(contexts[split]) for split in SPLITS}, task)


def choice_features(vectorizer: Any, instances: Sequence[Instance]) -> Any:
    """A sparse row for each choice of each instance: its weights, and those of the words that the context has too.

    Args:
        vectorizer: scikit-learn's, fitted.
        instances: of one split.

    Returns:
        (choices of all instances, 2 words), float64.
    """
    from scipy import sparse

    owners = [row for row, instance in enumerate(instances) for _ in instance.choices]
    choices = vectorizer.transform([choice for instance in instances for choice in instance.choices])
    contexts = vectorizer.transform([_context(instance) for instance in instances])
    # A context's weights only say which words it has: products of two weights below one would be too small to be used.
    shared = choices.multiply(contexts[owners] > 0)
    return sparse.hstack([choices, shared], format="csr")


def _context(instance: Instance) -> str:
    return f"{instance.context} {instance.question}".strip()
