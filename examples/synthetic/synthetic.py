"""The synthetic convex benchmark: F(X) = 1/2 <X - C, A (X - C) B>, ten methods, seven studies.

    python examples/synthetic/synthetic.py grid                       # tune, then run every winner alone
    python examples/synthetic/synthetic.py horizon --methods muon sgd
    python examples/synthetic/synthetic.py kappa --lrs 1e-3:1e0:x2 --set kappas=[10,1000] --out runs/kappa
    python examples/synthetic/synthetic.py tables                     # README's tables and the plots, from the results

A study writes one method after the other to OUT/STUDY.json, and what it has computed to OUT/cache, from where an
interrupted one goes on. On a CPU set OMP_NUM_THREADS=1: the matrices are small.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
sys.path.insert(0, str(HERE))
from signa import SpecError  # noqa: E402
from signa.lab.synthetic import METHODS, STUDIES, Store, Study  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=[*STUDIES, "tables"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="of Newton-Schulz")
    parser.add_argument("--lrs", help="learning rates, as 1e-5:1e0:x6 (6 a decade)")
    parser.add_argument("--momenta", type=float, nargs="+", help="values of beta")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=YAML", help="any other field, as steps=1000"
    )
    options = parser.parse_args()
    if options.mode == "tables":
        import tables

        tables.write(options.out, HERE / "README.md")
        return
    fields: dict[str, Any] = {name: yaml.safe_load(text) for name, _, text in (x.partition("=") for x in options.set)}
    fields |= {name: value for name in ("dtype", "lrs", "momenta") if (value := getattr(options, name)) is not None}
    try:
        study, store = STUDIES[options.mode](**fields), Store(options.out)
        for name in options.methods:
            begun = time.monotonic()
            found = study.run(METHODS[name], store)
            store.add(study.name, study.model_dump(), name, found)
            print(f"{name:14} {line(study, found)}  ({time.monotonic() - begun:.0f} s)", flush=True)
    except SpecError as error:
        sys.exit(str(error))


def line(study: Study, found: dict[str, Any]) -> str:
    """The numbers of a result."""
    return "  ".join(f"{k} {v:.5g}" for k, v in found.items() if isinstance(v, float | int) and not isinstance(v, bool))


if __name__ == "__main__":
    main()
