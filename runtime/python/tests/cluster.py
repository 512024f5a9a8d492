"""A cluster of Ray on this machine, whose workers import what `package.install` has put in place.

usage: import cluster, before ray; with cluster.started(processors=3): ...
"""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path


# Ray reads them when it is imported.
os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Linux then uses the loopback's address, as the others do.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


@contextlib.contextmanager
def started(processors):
    """It talks to this machine alone, tells nobody of its use, and leaves nothing in the user's directory."""
    import edge_run
    import ray

    os.environ["PYTHONPATH"] = str(Path(edge_run.__file__).parents[1])
    # Its name is a part of a socket's, which has to be short.
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        ray.init(num_cpus=processors, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=directory,
                 log_to_driver=False)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # So that no worker has answered everything before the other has started.
        context.wait_for_min_actors_s = 120
        try:
            yield
        finally:
            ray.shutdown()
