"""The notebook: run by Jupyter, kept with what it printed, and shown as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[2] / "examples" / "tour.ipynb"
TIMEOUT = 300


def execute(path: Path) -> None:
    """Run every cell from the top in a fresh kernel and write the outputs; times and ids that change are left out.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the file is as it was.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for number, cell in enumerate(book.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            if "image/svg+xml" in output.get("data", {}):
                output.data.pop("text/plain", None)  # an address in memory, which no reader of the picture sees
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def cells(path: Path) -> list[dict[str, Any]]:
    """The notebook's cells as data."""
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def page(path: Path) -> str:
    """The notebook as Markdown: words, code, and what the code printed."""
    parts = []
    for cell in cells(path):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            parts += [f"```python\n{text}\n```", *map(_output, cell["outputs"])]
    home = f"This page is the notebook [examples/{path.name}](repo:examples/{path.name}), as Jupyter ran it."
    return "\n\n".join([parts[0], home, *parts[1:]]) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/svg+xml" in data:
        svg = "".join(data["image/svg+xml"])
        return f'<figure markdown="0">\n{svg[svg.index("<svg") :]}\n</figure>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
