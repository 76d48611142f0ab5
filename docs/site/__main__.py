"""``python -m docs.site FOLDER`` writes the pages; ``--notebook`` runs examples/tour.ipynb and keeps what it prints."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from signa.errors import Advice

from .notebook import PATH, execute
from .stage import stage


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", nargs="?", type=Path, help="the folder to fill; what is in it goes")
    what.add_argument("--notebook", action="store_true", help="execute the notebook in place")
    args = parser.parse_args(argv)
    if args.notebook:
        execute(PATH)
        return 0
    warnings.simplefilter("ignore", Advice)  # the pages of the methods print it
    torch.set_num_threads(1)  # the plots' last bits
    stage(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
