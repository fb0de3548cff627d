"""How sure it is: token trees and the scorer that turns any model into posteriors.

The public names are listed in `__init__.pyi` and imported when first used: reading options must not load torch.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
