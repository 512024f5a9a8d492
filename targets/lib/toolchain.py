"""Compilers for a board, and what they make.

In: a board. Out: a command for it. Rust comes from rustup where it has, or can fetch, the standard library of the
board's triple; elsewhere, or with EDGE_RUST=debian, from Debian's packages, unpacked into the cache, and the standard
library is built of its source. The linker is Debian's cross gcc, or, for a static binary or an older C library, zig
from PyPI.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lib.shell import Failure, alone, cache_dir, install, packages_alone, python_packages, run, say, target_dir

# Named in every build, whichever of them is wanted: so all builds ask dependencies for the same features, and share them. A slim
# build asks a few of them for others, and shares the rest.
COMMANDS = ("edge-run", "edge-serve", "edge-patch")
PROFILE = "board"
# A program that aborts when it panics has no use for tables that say how to unwind.
SMALL = ("-Cforce-unwind-tables=no",)
# In one place, so that two machines link the same.
ZIG = ("cargo-zigbuild==0.24.0", "ziglang==0.17.1")


def compile(board, glibc=None, commands=("edge-run",), example=None, slim=False, tls=False):
    """Builds commands, and an example of edge-run's, stripped; gives their paths.

    With tract, unless `slim`, without TLS, unless `tls`, and without what only research has use for. `glibc` is the oldest C library
    they are to run with, if not Debian's own.
    """
    packages = [word for command in COMMANDS for word in ("--package", command)]
    programs = [word for command in commands for word in ("--bin", command)]
    programs += ["--example", example] if example else []
    names = [*commands, *([f"examples/{example}"] if example else [])]
    kind = ("slim" if slim else "whole") + ("-tls" if tls else "")
    # Programs of every kind lie in one place, so each is copied away before another may be built.
    with alone(directory_of(board, glibc) / "programs.lock"):
        built = cargo(board, "build", "--profile", PROFILE, *packages, *programs, *features(slim, tls), glibc=glibc, flags=SMALL)
        return [copied(built / PROFILE / name, built / PROFILE / kind / Path(name).name) for name in names]


def copied(program, to):
    """A copy of a program, at a path that another process may be running."""
    to.parent.mkdir(exist_ok=True)
    made = to.with_suffix(f".{os.getpid()}")
    shutil.copy2(program, made)
    return made.rename(to)


def features(slim, tls, packages=COMMANDS):
    """Flags for the features of a build of these packages."""
    flags = ["--no-default-features"]
    for package, feature, wanted in (("edge-run", "tract", not slim), ("edge-serve", "tls", tls)):
        flags += ["--features", f"{package}/{feature}"] if wanted and package in packages else []
    return flags


def directory_of(board, glibc=None):
    """Where cargo builds for a board."""
    # A directory for each triple: cargo locks the part that holds what runs on this machine, so builds for two triples in one would wait
    # for each other.
    return target_dir() / "boards" / (f"glibc-{glibc}" if glibc else "") / board.triple


def cargo(board, command, *arguments, glibc=None, env=None, flags=()):
    """Runs a command of cargo for a board; gives the directory it builds in."""
    directory = directory_of(board, glibc)
    flags = [*os.environ.get("RUSTFLAGS", "").split(), *flags, *remapped(directory)]
    needed, more = rust(board.triple)
    if board.is_static or glibc is not None:
        if board.is_static and glibc is not None:
            raise Failure(f"--glibc: {board.name} is static and needs no C library")
        needed["PATH"] = f"{python_packages('zig', *ZIG)}{os.pathsep}{os.environ['PATH']}"
        program = ("cargo-zigbuild", {"build": "zigbuild"}.get(command, command))
        if board.is_static:
            # The start-up files are zig's: Debian's Rust has none.
            flags.append("-Clink-self-contained=no")
    else:
        needed[f"CARGO_TARGET_{board.variable}_LINKER"] = gnu_compiler(board)
        program = ("cargo", command)
    # Encoded, for a path may have blanks in it.
    needed["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
    target = f"{board.triple}.{glibc}" if glibc else board.triple
    where = ("--locked", "--target", target, "--target-dir", directory)
    run(*program, *where, *more, *arguments, env={**needed, **(env or {})})
    return directory / board.triple


def remapped(directory):
    """Flags that keep this machine's paths out of a program, so that the same compilers give the same bytes everywhere.

    The workspace's own are relative already. If the clone were named here, every other clone would build all anew.
    """
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo").absolute()
    places = {home: "/cargo", cache_dir("debian-rust").absolute(): "/rust", directory: "/target"}
    # The last that fits is taken, so a place within another comes after it.
    return [f"--remap-path-prefix={place}={places[place]}" for place in sorted(places)]


def gnu_compiler(board):
    """The board's gcc and C library; Debian's are installed if they are missing."""
    gcc = f"{board.architecture.gnu}-gcc"
    there = shutil.which(gcc) and os.path.isabs(run(gcc, "-print-file-name=crt1.o", capture=True).strip())
    if not there:
        install(f"gcc-{board.architecture.gnu}", f"libc6-dev-{board.architecture.debian}-cross")
    return gcc


def rust(triple, libraries="std,panic_abort"):
    """Environment and arguments with which cargo builds for a triple; `libraries` are those that are built if need be."""
    if os.environ.get("EDGE_RUST") != "debian" and shutil.which("rustup"):
        installed = run("rustup", "target", "list", "--installed", capture=True).split()
        if triple in installed or subprocess.run(["rustup", "target", "add", triple]).returncode == 0:
            return {}, []
        say(f"rustup has no {triple} here: Debian's compiler is taken")
    # The standard library is built with the board's own profile; that needs what is not yet stable in cargo. It is built without
    # its feature for backtraces: a stripped program has no names to show in one.
    return {"RUSTC": str(debian_rust()), "RUSTC_BOOTSTRAP": "1"}, [f"-Zbuild-std={libraries}", "-Zbuild-std-features=panic-unwind"]


def debian_rust():
    """Debian's rustc and the source of its standard library, unpacked beside no other: nothing of it is installed."""
    place = cache_dir("debian-rust")
    rustc = place / "rustc"
    if not rustc.exists():
        with packages_alone():
            # Another command may have unpacked it meanwhile.
            if not rustc.exists():
                unpack_rust(place)
    return rustc


def unpack_rust(place):
    """Unpacks Debian's rustc and that source into a directory."""
    if shutil.which("apt-get") is None:
        raise Failure("no standard library for the board: install rustup (https://rustup.rs)")
    if shutil.which("cargo") is None:
        raise Failure("no cargo: install rustup (https://rustup.rs), or Debian's cargo")
    if os.geteuid() == 0:
        run("apt-get", "update", "--quiet")
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    closure = run("apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), "rustc-web", capture=True)
    libraries = re.findall(r"^(?:libstd-rust-web|libllvm)\S*$", closure, re.MULTILINE)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".debian-rust-") as staged:
        packages = Path(staged, "packages")
        packages.mkdir()
        run("apt-get", "download", "--quiet", "rustc-web", "rust-web-src", *libraries, cwd=packages)
        for package in sorted(packages.glob("*.deb")):
            run("dpkg", "-x", package, Path(staged, "root"))
        wrapper = Path(staged, "root", "rustc")
        wrapper.write_text('#!/bin/sh\n# The compiler finds its libraries from here, wherever this is.\n'
                           'root=$(dirname "$(readlink -f "$0")")/usr\n'
                           'LD_LIBRARY_PATH="$root/lib/$(uname -m)-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" '
                           'exec "$root/bin/rustc" "$@"\n')
        wrapper.chmod(0o755)
        os.rename(Path(staged, "root"), place)
