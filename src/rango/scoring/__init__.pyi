"""How sure it is: token trees and the scorer that turns any model into posteriors."""

from .batches import Batch as Batch
from .batches import Read as Read
from .batches import collate as collate
from .dropout import mean_posteriors as mean_posteriors
from .dropout import score_samples as score_samples
from .forward import Reader as Reader
from .generate import Generation as Generation
from .generate import generate as generate
from .generate import nucleus as nucleus
from .options import GenerateConfig as GenerateConfig
from .options import GenerateOptions as GenerateOptions
from .options import Normalisation as Normalisation
from .options import ScoringOptions as ScoringOptions
from .reader import make_reader as make_reader
from .scorer import Scores as Scores
from .scorer import as_posteriors as as_posteriors
from .scorer import evaluate as evaluate
from .scorer import score as score
from .trees import TokenTree as TokenTree
from .trees import encode as encode
