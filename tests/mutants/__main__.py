"""``python -m tests.mutants``; see ``python3 run.py mutants --help``."""

import os
import sys

from tests.mutants.campaign import main

if __name__ == "__main__":
    os.environ["SIGNA_KERNELS"] = "eager"  # else the C loops would stand in for the lines that are changed
    sys.exit(main(sys.argv[1:]))
