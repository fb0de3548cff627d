"""What it shows: tables for the terminal, figures, and the page of a run, from stored files and without the model.

The public names are listed in `__init__.pyi` and imported when first used: a table must not wait for matplotlib.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
