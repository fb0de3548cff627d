"""`python -m rango` is `rango`."""

import sys

from rango.cli import main

sys.exit(main())
