"""Rango adapts causal language models with LoRA to tasks of choosing, and tells what their probabilities are worth."""

from .decisions import Costs as Costs
from .decisions import Posteriors as Posteriors
from .errors import InputError as InputError
from .models import LoRA as LoRA
from .models import Model as Model
from .models import load_adapter as load_adapter
from .models import load_model as load_model
from .scoring import evaluate as evaluate
from .tasks import Instance as Instance
from .tasks import Task as Task
from .tasks import load_task as load_task
from .training import FinetuneConfig as FinetuneConfig
from .training import Run as Run
from .training import finetune as finetune
from .training import pretrain as pretrain

__version__: str
