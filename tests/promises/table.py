"""What users rely on, the test that holds it, and a fault that this test was seen to find.

``docs/promises.md`` shows this table; ``test_promises.py`` injects every fault into a copy and runs the tests.
"""

from __future__ import annotations

from tests.promises.running import RANKS, RESUMING
from tests.promises.using import CONTRACTS, PARTS, SPECS

ROWS = [*RANKS, *RESUMING, *SPECS, *CONTRACTS, *PARTS]
