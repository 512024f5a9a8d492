"""Runs the notebooks of runtime/python/examples.

usage: test_notebook.py MODULE [--keep]
(pip install numpy pandas scikit-learn tqdm nbclient nbformat ipykernel; MODULE is the library that cargo built,
target/debug/libedge_run_python.so; the demo's encoder is in the store)

Each runs in a copy of its directory. With --keep, what its cells give is kept in the notebook that is committed.
"""

import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
import package

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "runtime/python/examples"
SECONDS = 300
# The patch has to be worth more than the words, and to answer as a reader sees it.
CHECK = """
assert accuracy["patch"] > accuracy["words"] + 0.1, accuracy
assert [row[0]["label"] for row in rows] == ["delivery", "product"], rows
assert [row[1]["label"] for row in rows] == ["negative", "positive"], rows
"""


def text(cell):
    return "".join(str(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in cell.get("outputs", []))


def seen(outputs):
    """What a reader sees: pieces of a stream as one, and of a line what comes after its last carriage return."""
    for kind, pieces in itertools.groupby(outputs, key=lambda output: output.get("name")):
        pieces = [*pieces]
        if kind is None:
            yield from pieces
            continue
        lines = "".join(piece.text for piece in pieces).split("\n")
        yield nbformat.v4.new_output("stream", name=kind, text="\n".join(line.rsplit("\r", 1)[-1] for line in lines))


def main(library, keep):
    package.install(library)
    # The kernel is another process.
    os.environ["PYTHONPATH"] = sys.path[0]
    notebook = nbformat.read(EXAMPLES / "messages.ipynb", as_version=4)
    nbformat.validate(notebook)
    kept = [text(cell) for cell in notebook.cells]
    with tempfile.TemporaryDirectory() as directory:
        # Where the library of patches is at the place that the notebook names.
        place = Path(directory, "runtime/python/examples")
        shutil.copytree(EXAMPLES, place)
        Path(directory, "patches").symlink_to(ROOT / "patches")
        notebook.cells.append(nbformat.v4.new_code_cell(CHECK))
        nbclient.NotebookClient(notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(place)}}).execute()
    check = notebook.cells.pop()
    assert not check.outputs, check.outputs
    found = [text(cell) for cell in notebook.cells]
    assert "step/s" in "".join(found) and "epoch 6: " in "".join(found), "no progress"
    print("\n".join(found))
    if keep:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [*seen(cell.outputs)]
        nbformat.write(notebook, EXAMPLES / "messages.ipynb")
    else:
        given = [bool(one) for one in found]
        assert [bool(one) for one in kept] == given, "cells that give something are not those that did: run with --keep"


if __name__ == "__main__":
    main(sys.argv[1], "--keep" in sys.argv[2:])
