"""How it learns: objectives, the loop, checkpoints, the run directory, pre-training."""

from .bank import BankJob as BankJob
from .bank import OnValidation as OnValidation
from .bank import bankable as bankable
from .bank_choice import BankChoice as BankChoice
from .bank_choice import choose_bank as choose_bank
from .evaluation import write_evaluation as write_evaluation
from .evaluation_of_run import as_the_run as as_the_run
from .finetune import finetune as finetune
from .finetune import finetune_bank as finetune_bank
from .measures import measure as measure
from .measures import true_posteriors as true_posteriors
from .objectives import DivergenceError as DivergenceError
from .objectives import count_terms as count_terms
from .objectives import loss_sum as loss_sum
from .options import EvaluateConfig as EvaluateConfig
from .options import FinetuneConfig as FinetuneConfig
from .options import FinetuneOptions as FinetuneOptions
from .options import Objective as Objective
from .options import Rule as Rule
from .pretrain import pretrain as pretrain
from .pretrain_options import PretrainConfig as PretrainConfig
from .progress import Screen as Screen
from .ranks import Ranks as Ranks
from .ranks import launched as launched
from .run import Run as Run
