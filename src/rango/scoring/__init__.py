"""How sure it is: token trees and the scorer that turns any model into posteriors."""

from rango.scoring.batches import Batch, Read, collate
from rango.scoring.forward import Reader
from rango.scoring.reader import make_reader
from rango.scoring.scorer import Scores, ScoringOptions, evaluate, score, to_posteriors
from rango.scoring.trees import Normalisation, TokenTree, encode

__all__ = [
    "Batch",
    "Normalisation",
    "Read",
    "Reader",
    "Scores",
    "ScoringOptions",
    "TokenTree",
    "collate",
    "encode",
    "evaluate",
    "make_reader",
    "score",
    "to_posteriors",
]
