"""What is copied to a board.

In: its commands and what they are built of, an encoder's bundle, patches. Out: a directory, an archive or a Debian package of

    edge-run              stripped, and perhaps edge-serve
    components.cdx.json   the crates that they are built of
    bundle/               the encoder, with the one panels file that this board maps, and without weights.bin
    *.bias                the patches

Refused: a bundle that has neither this board's panels nor the weights to make them of, a patch of another encoder, a place where
something else is.
"""

import contextlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import tomllib
from pathlib import Path

from lib import components
from lib.emulator import Emulator
from lib.shell import ROOT, Failure, run

# The commands, each with the units that systemd runs it by.
UNITS = {"edge-run": ("targets/edge-run.service",),
         "edge-serve": ("runtime/serve/deploy/edge-serve.service", "runtime/serve/deploy/edge-serve.socket")}


# What a patch begins with, its versions, and where it names its encoder: patches/format/FORMAT.md.
MAGIC, VERSION, VERSIONS, ENCODER = b"BIASPTCH", slice(8, 10), range(1, 4), slice(16, 48)


def check_patches(bundle, patches):
    """Refuses a file that is no patch, and with a bundle a patch of another encoder, before anything is built."""
    encoder = json.loads(manifest_of(bundle).read_text())["encoder"] if bundle is not None else None
    for patch in patches:
        try:
            with open(patch, "rb") as file:
                begin = file.read(ENCODER.stop)
        except OSError as error:
            raise Failure(f"{patch}: cannot read: {error.strerror}") from None
        if not begin.startswith(MAGIC) or len(begin) < ENCODER.stop:
            raise Failure(f"{patch}: expected a patch, found another file")
        version = int.from_bytes(begin[VERSION], "little")
        if version not in VERSIONS:
            raise Failure(f"{patch}: expected version {VERSIONS.start} to {VERSIONS.stop - 1} of the patch format, found {version}")
        if encoder is not None and begin[ENCODER].hex() != encoder:
            raise Failure(f"{patch}: expected a patch for encoder {encoder}, which is in {bundle}, found one for "
                          f"{begin[ENCODER].hex()}; an encoder of other weights, such as int8, needs patches made for it")


def manifest_of(bundle):
    manifest = bundle / "bundle.json"
    if not manifest.is_file():
        raise Failure(f"{bundle}: expected a bundle, found no bundle.json; edge-export makes one")
    return manifest


@contextlib.contextmanager
def stage(board, binaries, built_of, bundle, patches):
    """The directory, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="edge-run-") as temporary:
        directory = Path(temporary, f"edge-run-{board.name}")
        directory.mkdir()
        (directory / components.NAME).write_text(built_of)
        fill(board, binaries, bundle, patches, directory)
        yield directory


def fill(board, binaries, bundle, patches, directory):
    """Puts what goes to a board into an empty directory."""
    for file in (*binaries, *patches):
        shutil.copy2(file, directory / file.name)
    if bundle is not None:
        copy_bundle(board, directory / "edge-run", bundle, directory / "bundle")


def copy_bundle(board, binary, bundle, to):
    tensors = json.loads(manifest_of(bundle).read_text())["tensors"]
    kinds = {tensor.get("type", "f32") for tensor in tensors}
    kind = next(kind for kind in ("i4", "i8", "f16", "f32") if kind in kinds)
    panels = f"panels-{board.panels[kind]}.bin"
    there = sorted(path.name for path in bundle.glob("panels-*.bin"))
    make = panels not in there
    if make and not (bundle / "weights.bin").is_file():
        raise Failure(f"{bundle}: expected {panels}, as {board.title} maps it, or weights.bin to make it of, "
                      f"found {', '.join(there) or 'neither'}; export the encoder again without --panels only")
    unwanted = set(there) - {panels} | (set() if make else {"weights.bin"})
    shutil.copytree(bundle, to, ignore=lambda _, names: unwanted & set(names))
    if make:
        # The board's own program lays them out, so that no other has to know how.
        Emulator(board).run(binary, "prepare", to)
        (to / "weights.bin").unlink()
        if not (to / panels).is_file():
            found = ", ".join(path.name for path in to.glob("panels-*.bin"))
            raise Failure(f"boards/{board.name}.toml: panels: edge-run expected {found or 'none'}, found {panels}")


def as_directory(board, directory, output):
    if output.exists():
        made = (*UNITS, components.NAME, "bundle")
        others = sorted(path.name for path in output.iterdir() if path.name not in made and path.suffix != ".bias")
        if others or not (output / "edge-run").is_file():
            found = ", ".join(others) or "no edge-run"
            raise Failure(f"{output}: expected what this command has made before, or nothing, found {found}")
        shutil.rmtree(output)
    shutil.copytree(directory, output)


@contextlib.contextmanager
def whole(output, magic):
    """A path beside `output` that replaces it when it is written. Refuses another file there than one that begins with `magic`."""
    if output.exists():
        found = output.read_bytes()[:len(magic)] if output.is_file() else b""
        if found != magic:
            raise Failure(f"{output}: expected what this command has made before, or nothing, found something else")
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        yield beside
        beside.rename(output)
    finally:
        beside.unlink(missing_ok=True)


def as_archive(board, directory, output):
    def of_root(entry):
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with whole(output, b"\x1f\x8b") as beside, tarfile.open(beside, "w:gz", compresslevel=6) as archive:
        archive.add(directory, arcname=directory.name, filter=of_root)


def as_debian_package(board, directory, output):
    """Commands where commands are, licences and components in /usr/share/doc, the rest in /usr/share/edge-run, units where systemd looks
    for them, not enabled."""
    if shutil.which("dpkg-deb") is None:
        raise Failure("--deb: expected dpkg-deb on this machine, found none; use --tar")
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    commands = [command for command in UNITS if (directory / command).is_file()]
    glibc = ".".join(map(str, max(glibc_of(directory / command) for command in commands)))
    depends = "" if board.is_static else f"Depends: libc6 (>= {glibc}), libgcc-s1\n"
    control = (f"Package: edge-run\nVersion: {workspace['version']}\nArchitecture: {board.architecture.debian}\n"
               f"Maintainer: whoever built it <root@localhost>\n{depends}"
               "Description: any number of tasks over one frozen encoder\n")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        units = root / "lib/systemd/system"
        for place in (root / "DEBIAN", root / "usr/bin", units):
            place.mkdir(parents=True)
        (root / "DEBIAN/control").write_text(control)
        write_manual(commands, root / "usr/share")
        shutil.copytree(directory, root / "usr/share/edge-run")
        documents = root / "usr/share/doc/edge-run"
        documents.mkdir(parents=True)
        os.rename(root / "usr/share/edge-run" / components.NAME, documents / components.NAME)
        for file in ("LICENSE-APACHE", "LICENSE-MIT", "NOTICE"):
            shutil.copy2(ROOT / file, documents)
        for command in commands:
            os.rename(root / "usr/share/edge-run" / command, root / "usr/bin" / command)
            for unit in UNITS[command]:
                shutil.copy2(ROOT / unit, units)
        if "edge-serve" in commands and (directory / "bundle").is_dir():
            own = units / "edge-serve.service.d"
            own.mkdir()
            shutil.copy2(ROOT / "targets/edge-serve.conf", own)
        with whole(output, b"!<arch>\n") as beside:
            run("dpkg-deb", "--root-owner-group", "--build", root, beside)


def write_manual(commands, share):
    """Puts the manual pages and completions of some commands where Debian has them."""
    run("cargo", "run", "--quiet", "--locked", "--package", "edge-manual", "--", share)
    os.rename(share / "zsh/site-functions", share / "zsh/vendor-completions")
    of_commands = re.compile(f"_?({'|'.join(commands)})([-.].*)?")
    for file in [path for path in share.rglob("*") if path.is_file() and not of_commands.fullmatch(path.name)]:
        file.unlink()


def glibc_of(binary):
    """The oldest glibc that has every symbol a binary needs, as numbers."""
    symbols = run("readelf", "--version-info", "--wide", binary, capture=True)
    versions = re.findall(r"GLIBC_(\d+(?:\.\d+)*)", symbols)
    return max((tuple(map(int, version.split("."))) for version in versions), default=())
