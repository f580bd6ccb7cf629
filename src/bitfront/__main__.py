"""``python -m bitfront``."""

import sys

from bitfront.cli import main

sys.exit(main())
