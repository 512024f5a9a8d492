"""Search by meaning: makes vectors of the lines of a file, keeps them in an index, and asks it.

usage: search.py index PATCH DOCUMENTS INDEX      makes INDEX of the lines of DOCUMENTS
       search.py ask PATCH DOCUMENTS INDEX QUERY  prints the lines nearest to QUERY
(pip install numpy usearch; edge-run on the PATH, or named by EDGE_RUN)

PATCH is one for embeddings, such as patches/library/embed.bias. usearch keeps the index in a file, which is mapped and
searched in place, so asking costs a device little memory.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np
from usearch.index import Index

EDGE_RUN = os.environ.get("EDGE_RUN", "edge-run")


def vectors(patch, documents):
    """The vectors of a file's lines, `[lines, D]`."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        done = subprocess.run([EDGE_RUN, "-p", patch, "-o", "npy", documents], stdout=file)
        # 3: some lines have no vector, such as empty ones.
        if done.returncode not in (0, 3):
            sys.exit(done.returncode)
        return np.load(file.name)


def index(patch, documents, path):
    found = vectors(patch, documents)
    made = Index(ndim=found.shape[1], metric="cos", dtype="f32")
    there = np.flatnonzero(~np.isnan(found).any(axis=1))
    made.add(there, found[there])
    made.save(path)
    print(f"{path}: {len(made)} vectors of {found.shape[1]}")


def ask(patch, documents, path, query):
    done = subprocess.run([EDGE_RUN, "-p", patch, "-o", "f32"], input=f"{query}\n".encode(), capture_output=True,
                          check=True)
    found = Index.restore(path, view=True).search(np.frombuffer(done.stdout, "<f4"), 3)
    with open(documents, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
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
