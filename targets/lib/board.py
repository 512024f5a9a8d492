"""Boards: the content of `boards/*.toml`.

In: a board's name. Out: a `Board`. Refused: a name without a file, a file with other fields than these.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from lib.shell import Failure

BOARDS = Path(__file__).resolve().parents[1] / "boards"


@dataclass(frozen=True)
class Architecture:
    """What other projects call one kind of processor."""

    debian: str  # of packages
    gnu: str  # of cross compilers, and of the directory of their C library
    qemu: str  # of the emulator of one process


ARCHITECTURES = {
    "aarch64": Architecture("arm64", "aarch64-linux-gnu", "qemu-aarch64"),
    "armv7": Architecture("armhf", "arm-linux-gnueabihf", "qemu-arm"),
    "x86_64": Architecture("amd64", "x86_64-linux-gnu", "qemu-x86_64"),
}


@dataclass(frozen=True)
class Cpu:
    """The processor, as the emulator calls it and as /proc/cpuinfo shows it."""

    model: str
    part: str
    architecture: int
    features: str


@dataclass(frozen=True)
class Board:
    """One file of `boards/`."""

    name: str
    title: str
    triple: str  # as Rust has it
    ram_mb: int  # of the smallest one that was sold
    panels: dict  # layout of the panels, by what the weights are stored as
    cpu: Cpu

    @staticmethod
    def named(name):
        path = BOARDS / f"{name}.toml"
        if not path.is_file():
            raise Failure(f"board: expected one of {', '.join(Board.names())}, found {name}")
        try:
            fields = tomllib.loads(path.read_text())
            return Board(name=name, cpu=Cpu(**fields.pop("cpu")), **fields)
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise Failure(f"{path}: expected the fields of the other boards: {error}") from None

    @staticmethod
    def names():
        return sorted(path.stem for path in BOARDS.glob("*.toml"))

    @property
    def architecture(self):
        return ARCHITECTURES[self.triple.split("-")[0]]

    @property
    def variable(self):
        """The triple as cargo's environment variables have it."""
        return self.triple.upper().replace("-", "_")

    @property
    def is_static(self):
        return self.triple.endswith("-musl")
