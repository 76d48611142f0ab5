"""The eight methods of the published nanoGPT table with its momentum and orthogonaliser, as presets `nesterov_*`.

    signa train examples/nanogpt/gpu8.yaml --plugin examples/nanogpt/nesterov.py --compare nesterov_muon

`--compare` takes presets, and SignA's own have an exponential average of beta 0.95 and `polar6`. The table was made
with Nesterov's form of the average (`nu: beta`) and the five coefficients of modded-nanogpt's record 40 (`polar5`),
always in bfloat16.
"""

from __future__ import annotations

import signa

SOURCE = "github intsystems/SignMuon, nanogpt/signmuon_optimizers.py"
#: Learning rates of the table, chosen a priori: 0.06 where the step is a polar factor, 0.03 where it is signs.
RATES = {
    "muon": 0.06,
    "ef21signmuon": 0.06,
    "signmuon": 0.03,
    "muonusign": 0.06,
    "ef21muonusign": 0.06,
    "ef21muonsign": 0.06,
    "muonsign": 0.03,
    "signsgd": 0.03,
}

for name, lr in RATES.items():
    method = signa.method(name).replace({"worker.momentum.nu": "beta"})
    for part in ("worker", "server"):
        if any(stage.kind == "spectral" for stage in getattr(method, part)):
            method = method.replace({f"{part}.spectral.schedule": "polar5"})
    summary = f"{signa.presets.get(name).summary}; Nesterov momentum, polar5"
    signa.presets.register(f"nesterov_{name}", method, summary=summary, source=SOURCE, lr=lr)
