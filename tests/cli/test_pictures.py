"""The pictures of a path: large enough to read in a page's column, and nothing in them lies on something else."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from signa.diagram import diagram
from signa.presets import presets
from signa.written import read_method

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
COLUMN = 688  # pixels that the site's theme leaves for text, of a window 1,220 to 1,600 wide (measured in Chromium)
TELEPHONE = 340
LEGIBLE = 11.5  # pixels of the smallest letters as they are shown
LETTER = 0.61  # of a letter's size is its width, in a monospaced font; 0.62 of the bold one, on the average
#: A sentence with more on every part than any preset has.
FULL = (
    "clip momentum(beta=0.99, nu=0.5) spectral | ef14(decay=0.9)(scaled_sign) | trimmed_mean"
    " | momentum(beta=0.5) clip spectral step | ef21(top_k(fraction=0.125))"
)


def picture(method: str, *, tall: bool) -> ElementTree.Element:
    found = presets.get(method).method if method in presets.names() else read_method(method)
    return ElementTree.fromstring(diagram([(method[:20], found)], tall=tall))


def smallest(root: ElementTree.Element) -> float:
    return min(map(float, re.findall(r"font: (\d+)px", str(root.findtext(f"{SVG}style")))))


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("method", ["signmuon", "lion", "ef21muonsign", "adamw", FULL], ids=lambda m: m[:12])
def test_a_column_of_text_shows_a_picture_in_legible_letters(method: str, tall: bool) -> None:
    root = picture(method, tall=tall)
    shown = min(1.0, (TELEPHONE if tall else COLUMN) / float(root.attrib["width"]))
    assert smallest(root) * shown >= LEGIBLE


@pytest.mark.parametrize("name", ["signmuon", "lion", "ef21muonsign", "muonusign_1bit"])
def test_the_pages_show_pictures_that_need_not_be_made_smaller(name: str) -> None:
    root = ElementTree.parse(ROOT / "docs" / "diagrams" / f"{name}.svg").getroot()
    assert float(root.attrib["width"]) * LEGIBLE / smallest(root) <= COLUMN


Area = tuple[float, float, float, float]


def areas(root: ElementTree.Element) -> tuple[list[Area], list[Area]]:
    """The boxes without their copies, and the lines of text: left, top, right, bottom."""
    boxes, texts = [], []
    for item in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(item.attrib[key]) for key in ("x", "y", "width", "height"))
        if item.attrib["class"] == "box":
            boxes.append((x, y, x + w, y + h))
    for item in root.iter(f"{SVG}text"):
        x, y = float(item.attrib["x"]), float(item.attrib["y"])
        wide = len(item.text or "") * LETTER * (12 if "mono" in item.attrib["class"] else 13)
        left = x - wide / 2 if "mid" in item.attrib["class"] else x
        texts.append((left, y - 10, left + wide, y + 3))
    return boxes, texts


def apart(one: Area, other: Area) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def within(one: Area, other: Area) -> bool:
    return other[0] <= one[0] and other[1] <= one[1] and one[2] <= other[2] and one[3] <= other[3]


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("method", [*presets.names(), FULL], ids=lambda m: m[:12])
def test_nothing_lies_on_something_else(method: str, tall: bool) -> None:
    root = picture(method, tall=tall)
    boxes, texts = areas(root)
    whole = (0.0, 0.0, float(root.attrib["width"]), float(root.attrib["height"]))
    assert len(boxes) == 3 and all(within(item, whole) for item in [*boxes, *texts])
    assert all(apart(one, other) for one, other in [*combinations(boxes, 2), *combinations(texts, 2)])
    assert all(apart(text, box) or within(text, box) for text in texts for box in boxes)


def test_no_word_and_no_number_is_broken_where_a_line_ends() -> None:
    texts = {item.text for item in picture(FULL, tall=False).iter(f"{SVG}text")}
    assert {"ef14(decay=0.9)", "(scaled_sign)", "ef21(top_k", "(fraction=0.125))"} <= texts


def test_what_is_sent_up_goes_to_the_server_and_what_comes_down_to_the_replicas() -> None:
    root = picture("signmuon", tall=False)
    worker, server, replica = areas(root)[0]
    lines = [re.fullmatch(r"M(\d+) (\d+)H(\d+)", item.attrib["d"]) for item in root.iter(f"{SVG}path")]
    (start, y, end), (back, below, there) = (map(int, line.groups()) for line in lines if line)
    assert worker[2] < start < end < server[0] and worker[1] < y < worker[3] and server[1] < y < server[3]
    assert server[0] > back > there > replica[2] and replica[1] < below < replica[3] and server[1] < below < server[3]
    tips = [item.attrib["d"] for item in root.iter(f"{SVG}path") if item.attrib["class"] == "tip"]
    points = [[int(x) for x in re.findall(r"[ML](\d+) ", tip)] for tip in tips]
    assert points[0][1] > points[0][0] > worker[2] and replica[2] < points[1][1] < points[1][0]
