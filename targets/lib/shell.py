"""What every command here needs: to run a program, to fail with a message, to know where things are.

Nothing is installed but what a command asks `install` for, and nothing is kept outside `cache_dir`.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failure(Exception):
    """Says what was expected, what was found and what to do."""


def main(run):
    """Runs a command: exit code 1 after a failure, which is said in a line, as the commands of this project do."""
    name = Path(sys.argv[0]).resolve().relative_to(ROOT)
    try:
        run()
    except (Failure, OSError) as error:
        sys.exit(f"{name}: {error}")


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def cache_dir(*parts):
    """Where this project keeps what it can make again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "edge-run", *parts)


def target_dir():
    """Where cargo builds for this machine."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def run(*command, env=None, capture=False, codes=(0,), stdin=None, cwd=ROOT):
    """Runs a program to its end, on the file `stdin` if there is one; gives its standard output if `capture`."""
    command = [str(word) for word in command]
    whole = {**os.environ, **(env or {})}
    # What is not captured is for people: standard output is left to the command's own result.
    out = subprocess.PIPE if capture else sys.stderr
    try:
        with open(stdin or os.devnull) as source:
            done = subprocess.run(command, env=whole, cwd=cwd, stdin=source, stdout=out, text=True)
    except FileNotFoundError as error:
        raise Failure(f"{error.filename}: no such file or program") from None
    if done.returncode not in codes:
        raise Failure(f"exit code {done.returncode}, expected {codes[0]}: {shlex.join(command)}")
    return done.stdout


@contextlib.contextmanager
def alone(lock):
    """Lets commands that run at once do something one after the other; `lock` is a file that stands for it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def packages_alone():
    """Lets one command at a time use Debian's packages: apt-get does not wait for another."""
    return alone(cache_dir("packages.lock"))


def install(*packages):
    """Installs packages of Debian; on another system, and without the right to, says which are missing."""
    wish = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise Failure(f"this machine lacks what Debian calls {', '.join(packages)}: install it")
    if os.geteuid() != 0:
        raise Failure(f"this machine lacks {', '.join(packages)}: sudo {wish}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with packages_alone():
        run("apt-get", "update", "--quiet", env=quiet)
        run(*shlex.split(wish), "--yes", "--quiet", env=quiet)


def python_packages(name, *packages):
    """The directory of the commands of PyPI's packages, `python` among them, in a virtual environment of their own."""
    place = cache_dir(name)
    # Written last, so an environment that was not finished, or has other versions, is made again.
    listed = place / "packages"
    if not listed.exists() or listed.read_text().split() != list(packages):
        try:
            import ensurepip  # noqa: F401 (Debian has it in a package of its own)
        except ImportError:
            install("python3-venv")
        run(sys.executable, "-m", "venv", "--clear", place)
        run(place / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages)
        listed.write_text("\n".join(packages) + "\n")
    return place / "bin"
