"""Rango adapts causal language models with LoRA to tasks of choosing, and tells what their probabilities are worth."""

from . import figures as figures
from .commands import calibrate as calibrate
from .commands import compare as compare
from .commands import decide as decide
from .commands import gate as gate
from .commands import judge as judge
from .commands import metrics as metrics
from .commands import monitor as monitor
from .commands import predict as predict
from .commands import save_baseline as save_baseline
from .commands import study as study
from .decisions import Baseline as Baseline
from .decisions import Costs as Costs
from .decisions import Gate as Gate
from .decisions import Posteriors as Posteriors
from .decisions import read_posteriors as read_posteriors
from .errors import InputError as InputError
from .language.options import PretrainConfig as PretrainConfig
from .language.pretrain import pretrain as pretrain
from .models.adapter_set import load_adapters as load_adapters
from .models.loading import Model as Model
from .models.loading import load_model as load_model
from .models.peft_format import load_adapter as load_adapter
from .options import ExportOptions as ExportOptions
from .options import FinetuneConfig as FinetuneConfig
from .options import LoRA as LoRA
from .reports.run.export import export as export
from .scoring.scorer import evaluate as evaluate
from .serving.probed_model import probe as probe
from .tasks import Instance as Instance
from .tasks import Task as Task
from .tasks import load_task as load_task
from .training.finetune import finetune as finetune
from .training.run_folder import Run as Run

__version__: str
