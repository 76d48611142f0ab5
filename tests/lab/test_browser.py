"""A report in a real browser: on a telephone's width, without the net, light and dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from signa.lab.ablation import read_archive
from signa.lab.ablation.report import write_report

ROOT = Path(__file__).parents[2]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="there is no Chromium")]
#: A telephone is a frame here, for a window cannot be made narrower than 500 pixels.
FRAME = """<iframe id=f src="study/report.html" style="width:390px;height:800px"></iframe><pre id=o></pre><script>
f.onload = () => { const d = f.contentDocument, e = d.documentElement;
  o.textContent = ["FOUND", e.scrollWidth, e.clientWidth,
  [...d.querySelectorAll("[src], link")].filter(x => !(x.src || x.href).startsWith("data:")).length,
  getComputedStyle(d.body).fontSize, getComputedStyle(d.body).color].join(" ") }</script>"""


def opened(page: Path, *more: str) -> tuple[str, str]:
    """The page as the browser leaves it, and what its console said."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=4000"]
    command = [BROWSER, *words, *more, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    file = tmp_path / "study.json"
    shutil.copy(ROOT / "examples" / "cifar" / "results" / "cpu.json", file)
    return write_report(read_archive(file)).page


def test_a_telephone_shows_all_of_a_report(report: Path) -> None:
    frame = report.parents[1] / "frame.html"
    frame.write_text(FRAME)
    colours = []
    for scheme in ("1", "0"):  # light, dark
        page, console = opened(frame, f"--blink-settings=preferredColorScheme={scheme}")
        assert not console
        wide, room, outside, size, colour = re.findall(r"FOUND (\d+) (\d+) (\d+) ([\d.]+)px ([^<]+)<", page)[0]
        assert int(wide) <= int(room), "it is wider than the window"
        assert outside == "0", "it loads something"
        assert float(size) >= 14
        colours.append(colour)
    assert len({*colours}) == 2, "dark is as light"
