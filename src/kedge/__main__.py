"""`python -m kedge`: the command line."""

from __future__ import annotations

import sys

from kedge.run.cli import main

sys.exit(main())
