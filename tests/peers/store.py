"""The bundle of a patch's encoder in the store. Other scripts of this directory import it."""

import os
import subprocess


def bundle_of(patch, edge_patch):
    """The directory in which the store has the bundle of a patch's encoder."""
    shown = subprocess.run([edge_patch, "inspect", patch], capture_output=True, text=True, check=True).stdout
    digest = next(line.split()[1] for line in shown.splitlines() if line.startswith("encoder "))
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(data, "edge-run", "bundles", digest)
