"""``python -m unclip`` is ``unclip``."""

import sys

from unclip.cli import main

sys.exit(main())
