"""The package as pip installs it: the files in Python, and the library that cargo built.

usage: package.install(library), then import edge_run
"""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path


def install(library):
    """Puts the package where this process, and no other, imports it."""
    directory = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, directory)
    package = Path(directory) / "edge_run"
    shutil.copytree(Path(__file__).parents[1] / "edge_run", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(library, package / "_edge_run.abi3.so")
    sys.path.insert(0, directory)
