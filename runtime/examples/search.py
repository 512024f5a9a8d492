"""Search by meaning: makes vectors of the lines of a file, keeps them in an index, and asks it.

usage: search.py index PATCH DOCUMENTS INDEX      makes INDEX of the lines of DOCUMENTS
       search.py ask PATCH DOCUMENTS INDEX QUERY  prints the lines nearest to QUERY
(pip install numpy usearch)

EDGE_RUN is the command to run, edge-run if it is not set. Where the encoder is not in the store, it names the bundle:
EDGE_RUN="edge-run --bundle minilm". PATCH is one for embeddings, such as patches/library/embed.bias. usearch keeps the
index in a file, which is mapped and searched in place, so asking costs a device little memory.
"""

import os
import shlex
import subprocess
import sys
import tempfile

import numpy as np
from usearch.index import Index


def edge_run(arguments, **streams):
    """Runs edge-run. It says itself what is wrong; 3 says that some lines have no vector, such as empty ones."""
    done = subprocess.run([*shlex.split(os.environ.get("EDGE_RUN", "edge-run")), *arguments], **streams)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)
    return done.stdout


def index(patch, documents, path):
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        edge_run(["-p", patch, "-o", "npy", documents], stdout=file)
        found = np.load(file.name)  # [lines, D]
    there = np.flatnonzero(~np.isnan(found).any(axis=1))
    if len(there) == 0:
        sys.exit(f"{documents}: expected lines of text, found none")
    made = Index(ndim=found.shape[1], metric="cos", dtype="f32")
    made.add(there, found[there])
    made.save(path)
    print(f"{path}: {len(made)} vectors of {found.shape[1]}")


def ask(patch, documents, path, query):
    if not os.path.exists(path):
        sys.exit(f"{path}: no such index; make it with search.py index")
    # One line, which has one vector.
    line = " ".join(query.split()) + "\n"
    vector = np.frombuffer(edge_run(["-p", patch, "-o", "f32"], input=line.encode(), stdout=subprocess.PIPE), "<f4")
    if len(vector) == 0 or np.isnan(vector).any():
        sys.exit(f"expected a query, found {query!r}")
    found = Index.restore(path, view=True).search(vector, 3)
    with open(documents, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    if max(found.keys) >= len(lines):
        sys.exit(f"{documents}: changed since {path} was made of it; make it anew")
    for line, distance in zip(found.keys, found.distances):
        print(f"{1 - distance:.4f}  {line + 1:>4}  {lines[line]}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["index", patch, documents, path]:
            index(patch, documents, path)
        case ["ask", patch, documents, path, query]:
            ask(patch, documents, path, query)
        case _:
            sys.exit(__doc__)
