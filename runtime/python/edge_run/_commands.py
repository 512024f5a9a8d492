"""The commands that pip puts on the PATH.

In: the arguments of the process. Out: what the program of that name, built by cargo, writes, and its exit code.
"""

import functools
import signal
import sys

from . import _edge_run


def _run(name):
    # Python would look for an interrupt only after the command's end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _edge_run.command(name, sys.argv)


edge_run, edge_patch, edge_export, edge_serve = (
    functools.partial(_run, name) for name in ("edge-run", "edge-patch", "edge-export", "edge-serve")
)
