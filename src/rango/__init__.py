"""Rango adapts causal language models with LoRA to tasks of choosing, and tells what their probabilities are worth.

The public names are listed in `__init__.pyi` and imported when first used: `import rango` loads nothing heavy.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ += ["__version__"]
