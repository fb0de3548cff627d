"""Who answers: loading from the Hub or a folder, LoRA and its placements."""

from .adaptation import Adaptation as Adaptation
from .adapter import Adapter as Adapter
from .adapter import add_adapter as add_adapter
from .adapter import add_bank as add_bank
from .adapter_files import load_adapter as load_adapter
from .arpa import read_arpa as read_arpa
from .arpa import write_arpa as write_arpa
from .full import FullTuning as FullTuning
from .full import add_full as add_full
from .grouping import Grouping as Grouping
from .loading import Model as Model
from .loading import choose_device as choose_device
from .loading import load_model as load_model
from .lora import LoRALinear as LoRALinear
from .lora import linear_rows as linear_rows
from .options import PLACEMENTS as PLACEMENTS
from .options import LoRA as LoRA
from .options import ModelOptions as ModelOptions
from .options import Placement as Placement
from .placement import place as place
