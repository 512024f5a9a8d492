"""The demo's encoder, tasks and texts, and this machine's commands to make and answer them with.

In: what the weights are stored as. Out: a bundle in the user's store, exported if need be, and a patch for each task.
"""

import re
from pathlib import Path

from lib.shell import ROOT, Failure, alone, cache_dir, run, target_dir

FIXTURES = ROOT / "tests/fixtures"
LIBRARY = ROOT / "patches/library"
# The texts of three of the demo's tasks.
TASKS = {"sst2": FIXTURES / "reviews.txt", "mrpc": FIXTURES / "pairs.txt", "stsb": FIXTURES / "pairs.txt"}
WEIGHTS = ("f32", "f16", "int8", "int4")


class Host:
    """This machine's commands, as `cargo demo` and the tests build them."""

    def __init__(self):
        run("cargo", "build", "--quiet", "--locked", "--workspace", "--bins")

    def run(self, name, *arguments, **how):
        return run(target_dir() / "debug" / name, *arguments, **how)

    def bundle(self, weights):
        """The demo's encoder."""
        # The demo names the package and its digest, and so does nobody else.
        source = (ROOT / "exporter/src/lib.rs").read_text()
        named = re.search(r'EXAMPLE: &str =\s*"([^"]+)"', source)
        if named is None:
            raise Failure("exporter/src/lib.rs: expected a string EXAMPLE, found none")
        # Two boards may be checked at a time: the second finds what the first has exported.
        with alone(cache_dir("export.lock")):
            said = self.run("edge-export", named[1], "--weights", weights, capture=True)
        return Path(re.search(r"^bundle +(.+)$", said, re.MULTILINE)[1])

    def patches(self, weights, bundle, directory):
        """A patch of each task of the demo, for an encoder whose weights are stored so."""
        shipped = [LIBRARY / f"{task}.bias" for task in TASKS]
        if weights == "f32":
            return shipped
        # The same biases and heads, for the encoder of rounded weights.
        made, exact = [], self.bundle("f32")
        for patch in shipped:
            biases = directory / f"{patch.stem}.safetensors"
            self.run("edge-patch", "extract", patch, "--encoder", exact, "-o", biases, capture=True)
            made.append(self.imported(bundle, biases, LIBRARY / "tasks" / f"{patch.stem}.json", directory))
        return made

    def imported(self, bundle, biases, task, directory):
        """A patch made of biases for an encoder."""
        patch = directory / f"{task.stem}.bias"
        what = ("--encoder", bundle, "--from", biases, "--task", task)
        self.run("edge-patch", "import", *what, "-o", patch, capture=True)
        return patch
