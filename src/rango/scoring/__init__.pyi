"""How sure it is: token trees and the scorer that turns any model into posteriors."""

from .batches import Batch as Batch
from .batches import Read as Read
from .batches import collate as collate
from .forward import Reader as Reader
from .options import Normalisation as Normalisation
from .options import ScoringOptions as ScoringOptions
from .options import SpellingOptions as SpellingOptions
from .reader import make_reader as make_reader
from .scorer import Scores as Scores
from .scorer import as_posteriors as as_posteriors
from .scorer import evaluate as evaluate
from .scorer import score as score
from .sequences import TextScore as TextScore
from .sequences import score_texts as score_texts
from .spelling import Alternative as Alternative
from .spelling import SpellChecker as SpellChecker
from .spelling import SpellingCheck as SpellingCheck
from .spelling import WordCheck as WordCheck
from .trees import TokenTree as TokenTree
from .trees import encode as encode
from .word_list import WordList as WordList
from .word_list import count_words as count_words
from .word_list import read_words as read_words
from .word_list import write_words as write_words
