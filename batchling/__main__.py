"""`python -m batchling`."""

import sys

from batchling.cli import main

if __name__ == "__main__":
    sys.exit(main())
