"""`python -m rollout` is `heimdall`."""

import sys

from rollout.cli import main

sys.exit(main())
