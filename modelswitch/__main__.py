"""`python -m modelswitch` is the `modelswitch` command."""

import sys

from modelswitch.cli import main

if __name__ == "__main__":
    sys.exit(main())
