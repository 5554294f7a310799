"""``python -m pyro_vae``: the command line."""

import sys

from .cli import main

sys.exit(main())
