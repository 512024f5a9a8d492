"""Measures a step of training on encoders of published shapes: its time and what memory the process has.

usage: step_cost.py EDGE_PATCH BUNDLE... [--trained all full] [--threads 1 2] [--tokens N]
(Linux only; random_encoder.py makes checkpoints of these shapes, edge-export bundles of them)

Steps are of 16 texts, as in the BitFit paper. Runs of 5 and of 15 steps are compared, so a step is a tenth of their difference:
the start counts for nothing. Memory is the most that the process had: anonymous pages, and with them the weights' mapped ones.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

BATCH = 16


def status(pid, field):
    """A size in /proc/PID/status in bytes; 0 when the process has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field)), 0)


def train(command, directory):
    """Runs a training: seconds that passed, seconds of processors, most anonymous bytes and most bytes in memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = {"RssAnon": 0, "VmHWM": 0}

    def watch():
        while process.returncode is None:
            for field in seen:
                seen[field] = max(seen[field], status(process.pid, field))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    said = process.stderr.read()
    _, result, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(result)
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: {said}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, seen["RssAnon"], seen["VmHWM"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("edge_patch", type=pathlib.Path)
    parser.add_argument("bundles", nargs="+", type=pathlib.Path)
    parser.add_argument("--trained", nargs="+", default=["all", "full"], help="slots, or full")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    print("| encoder | trained | threads | s a step | processor s a step | anonymous MB | with mapped weights, MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        # A letter is at least one token; what is too long is cut to so many.
        text = " ".join("abcdefgh"[at % 8] for at in range(arguments.tokens))
        for steps in (5, 15):
            rows = [f"{text}\t{'no' if at % 2 else 'yes'}" for at in range(steps * BATCH)]
            (directory / f"{steps}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        (directory / "dev.tsv").write_text(f"sentence\tlabel\n{text}\tyes\n{text}\tno\n")
        task = {"name": "steps", "kind": "classification", "labels": ["no", "yes"], "pooling": "mean",
                "max_length": arguments.tokens}
        (directory / "task.json").write_text(json.dumps(task))
        for bundle in arguments.bundles:
            for trained in arguments.trained:
                for threads in arguments.threads:
                    what = ["--weights", "full"] if trained == "full" else ["--slots", trained]
                    measured = []
                    for steps in (5, 15):
                        command = [arguments.edge_patch.resolve(), "train", "--encoder", bundle.resolve(), "--task", "task.json", "--train",
                                   f"{steps}.tsv", "--dev", "dev.tsv", "--epochs", "1", "--batch", str(BATCH), "--threads",
                                   str(threads), *what, "-o", f"{bundle.name}-{trained}-{threads}-{steps}.bias"]
                        measured.append(train(command, directory))
                    (short, short_used, *_), (long, used, anonymous, whole) = measured
                    print(f"| {bundle.name} | {trained} | {threads} | {(long - short) / 10:.2f} | {(used - short_used) / 10:.2f} "
                          f"| {anonymous / 1e6:.0f} | {whole / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
