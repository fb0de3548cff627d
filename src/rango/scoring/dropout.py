"""MC dropout: scoring several times with the adapter's dropout on, each time with other masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rango.decisions import Posteriors, average_posteriors
from rango.errors import InputError
from rango.models import Adapter
from rango.scoring.forward import Reader
from rango.scoring.options import ScoringOptions
from rango.scoring.scorer import Scores, as_posteriors, score_as_it_is
from rango.scoring.trees import TokenTree
from rango.tasks import Form, Instance


def mask_seed(*numbers: int) -> int:
    """The seed of a stream of dropout masks that several numbers name, such as a run's seed and a step.

    The generator of the CPU looks at 32 bits of a seed only, so all numbers are hashed into those.

    >>> mask_seed(0, 1) == mask_seed(1, 1)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def score_samples(
    reader: Reader,
    trees: Sequence[TokenTree],
    *,
    adapter: Adapter,
    samples: int,
    seed: int,
    options: ScoringOptions,
    form: Form,
) -> list[Scores]:
    """Score every choice `samples` times with the adapter's dropout on, as in training; nothing else drops out.

    The masks of pass t are a function of (seed, t), of the trees and of `options.batch_tokens`, which decides who
    stands in a batch with whom; they differ between kinds of devices. A beginning that is read once for all trees, such
    as shots, has one mask in each pass. The global random stream is left as it was.

    Raises:
        InputError: an adapter without dropout: every pass would be the same.
    """
    refuse_no_dropout(adapter)
    network, device = reader.model.network, reader.model.device
    network.train(False)
    found = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for layer in adapter.layers.values():
            layer.train()
        try:
            for sample in range(samples):
                torch.manual_seed(mask_seed(seed, sample))
                found.append(score_as_it_is(reader, trees, options=options, form=form))
        finally:
            network.train(False)
    return found


def mean_posteriors(samples: Sequence[Scores], instances: Sequence[Instance]) -> Posteriors:
    """The mean of the passes' posteriors, a Monte Carlo estimate of the posterior over the masks.

    Source: Gal and Ghahramani (2016), section 4, with dropout in the adapter alone.
    """
    return average_posteriors([as_posteriors(scores.values, instances) for scores in samples])


def refuse_no_dropout(adapter: Adapter) -> None:
    """Raise InputError for an adapter that was trained without dropout."""
    if not adapter.lora.dropout:
        raise InputError(
            "the adapter has dropout 0, so MC dropout would give the same posterior each time; train one with "
            "--lora.dropout 0.1, or evaluate without --mc-dropout"
        )
