"""A board's processor in qemu's user mode: right answers and exact counts of instructions, and no times.

In: a program of the board. Out: what it writes, or how many instructions it executes. qemu shows a program the cpuinfo
of the machine it runs on, so a root directory with the board's own is put under it; qemu looks there first.
"""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from lib.shell import Failure, cache_dir, install, run
from lib.toolchain import gnu_compiler

HERE = Path(__file__).resolve().parents[1]


class Emulator:
    def __init__(self, board):
        self.board = board
        if shutil.which(board.architecture.qemu) is None:
            install("qemu-user")
        gnu_compiler(board)
        self.root = cache_dir("emulated", board.name)
        (self.root / "proc").mkdir(parents=True, exist_ok=True)
        cpu = board.cpu
        (self.root / "proc/cpuinfo").write_text(
            f"processor\t: 0\nFeatures\t: {cpu.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {cpu.architecture}\nCPU variant\t: 0x0\nCPU part\t: {cpu.part}\nCPU revision\t: 4\n\n")
        for name in ("bin", "include", "lib"):
            link, libraries = self.root / name, Path("/usr", board.architecture.gnu, name)
            if not link.is_symlink():
                link.symlink_to(libraries)

    def command(self, *program, options=()):
        """The command that runs a program of the board, and its arguments, here."""
        emulator = (self.board.architecture.qemu, "-L", self.root, "-cpu", self.board.cpu.model)
        return [str(word) for word in (*emulator, *options, *program)]

    def script(self, program):
        """A file that runs a program of the board, with whatever arguments, where a file is all that is taken."""
        script = cache_dir("emulated", f"{self.board.name}-commands", program.name)
        script.parent.mkdir(parents=True, exist_ok=True)
        # The process is the emulator's from then on, so that signals and limits meet it.
        script.write_text(f'#!/bin/sh\nexec {shlex.join(self.command(program))} "$@"\n')
        script.chmod(0o755)
        return script

    def run(self, program, *arguments, **how):
        return run(*self.command(program, *arguments), **how)

    def count(self, program, *arguments, env=None, stdin=None):
        """Instructions that a run executes: the same number every time, for addresses and seeds are the same.

        Only a static program draws seeds of its own; its counts are within a hundredth of each other.
        """
        options = ["-seed", "1"]
        if not self.board.is_static:
            options += ["-E", f"LD_PRELOAD={self.built('constant_seeds.c', gnu_compiler(self.board))}"]
        with tempfile.NamedTemporaryFile(prefix="edge-run-count-") as counted:
            options += ["-plugin", f"{self.built('count.c', 'gcc')},out={counted.name}"]
            command = self.command(program, *arguments, options=options)
            run("setarch", "-R", *command, env=env, stdin=stdin, capture=True)
            found = Path(counted.name).read_text()
        if not found.strip().isdigit():
            raise Failure(f"count.c: expected a number of instructions, found {found!r}")
        return int(found)

    def built(self, source, compiler, shared=True):
        """A library, or unless `shared` a program, made of one of the C files here."""
        source = HERE / source
        flags, ending = (("-shared", "-fPIC"), ".so") if shared else ((), "")
        binary = cache_dir("emulated", f"{source.stem}-{compiler}{ending}")
        if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
            # Renamed into place, for another process may be using or making it.
            made = binary.with_suffix(f".{os.getpid()}")
            run(compiler, "-O2", "-Wall", "-Werror", *flags, "-o", made, source)
            made.rename(binary)
        return binary
