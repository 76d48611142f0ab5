"""``python -m tests.fuzz``: so many inputs, or so many minutes of them; see ``python3 run.py fuzz --help``."""

import sys

from tests.fuzz.campaign import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
