"""Which choice works: grid, run store, execution, and the table of what came out.

The public names are listed in `__init__.pyi` and imported when first used: reading options must not load torch.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
