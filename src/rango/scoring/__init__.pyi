"""How sure it is: token trees and the scorer that turns any model into posteriors."""

from .batches import Batch as Batch
from .batches import Read as Read
from .batches import collate as collate
from .batches import join as join
from .forward import Reader as Reader
from .options import Normalisation as Normalisation
from .options import ScoringOptions as ScoringOptions
from .reader import make_reader as make_reader
from .scorer import Scores as Scores
from .scorer import as_posteriors as as_posteriors
from .scorer import evaluate as evaluate
from .scorer import score as score
from .trees import TokenTree as TokenTree
from .trees import encode as encode
