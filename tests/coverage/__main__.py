"""``python -m tests.coverage``; see ``python3 run.py coverage --help``."""

import sys

from tests.coverage.floors import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
