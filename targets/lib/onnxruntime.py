"""ONNX Runtime on a board's processor: its library for aarch64, as PyPI has it, in the emulator.

In: a bundle in f32. Out: instructions of runs of its encoder, in f32 or by ONNX Runtime's own dynamic quantization. Refused: a
32-bit board, for which no such library is published.
"""

import json
import os
import tempfile
import zipfile
from itertools import product
from pathlib import Path

from lib.shell import ROOT, Failure, cache_dir, install, python_packages, run
from lib.toolchain import gnu_compiler

# The second is what the first quantizes graphs with.
PACKAGES = ("onnxruntime==1.32.0", "onnx==1.23.2")
PLATFORM = "manylinux_2_28_aarch64"
# Optimizations of the graph, as the C API numbers them, and whether memory comes from an arena.
SETTINGS = list(product((99, 1), (1, 0)))
# The graph as the comparison of times has it.
PREPARE = "import sys, onnxruntime_ratio as peer; peer.quantize(peer.graph_of(*sys.argv[1:3]), sys.argv[3])"


class OnnxRuntime:
    def __init__(self, emulator):
        self.emulator, board = emulator, emulator.board
        if board.architecture.debian != "arm64":
            raise Failure(f"--peer: expected a 64-bit board, found {board.name}: ONNX Runtime publishes no library for 32-bit ARM")
        if not (emulator.root / "lib/libstdc++.so.6").exists():
            install(f"libstdc++6-{board.architecture.debian}-cross")
        self.python = python_packages("onnxruntime", *PACKAGES) / "python"
        self.library = library(self.python)
        self.program = emulator.built("onnxruntime.c", gnu_compiler(board), shared=False)

    def load(self, weights, bundle, directory):
        """Takes the encoder of a bundle in f32."""
        self.vocabulary = json.loads((bundle / "bundle.json").read_text())["config"]["vocabulary"]
        quantized = directory / "quantized.onnx"
        env = {"PYTHONPATH": str(ROOT / "tests/peers"), "PYTHONDONTWRITEBYTECODE": "1"}
        run(self.python, "-c", PREPARE, bundle, directory, quantized, env=env)
        self.graph = {"f32": directory / "constant.onnx", "int8": quantized}[weights]

    def hidden(self, tokens):
        """The first values of the hidden state of the first token."""
        said = self.emulator.run(*self.command(tokens, 1, *SETTINGS[0]), capture=True)
        return [float(value) for value in said.split()]

    def count(self, tokens, runs, setting):
        """Instructions of a process that runs the encoder so many times."""
        return self.emulator.count(*self.command(tokens, runs, *setting))

    def command(self, *numbers):
        return (self.program, self.library, self.graph, self.vocabulary, *numbers)


def library(python):
    """The library in the wheel for aarch64."""
    wanted = PACKAGES[0]
    place = cache_dir("onnxruntime-aarch64", f"{wanted}.so")
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".wheel-") as staged:
        run(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
            "--platform", PLATFORM, "--dest", staged, wanted)
        [wheel] = Path(staged).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            found = [name for name in files.namelist() if name.startswith("onnxruntime/capi/libonnxruntime.so.")]
            if len(found) != 1:
                raise Failure(f"{wheel.name}: expected one library, found {len(found)}: take another version in {Path(__file__).name}")
            os.rename(files.extract(found[0], staged), place)
    return place
