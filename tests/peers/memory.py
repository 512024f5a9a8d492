"""Memory of edge-run beside ONNX Runtime and tract, for lengths, batches and numbers of processes.

usage: memory.py BUNDLE PATCH [--edge-run PATH] [--lengths N,...] [--batches N,...] [--processes N,...] [--json]
(pip install onnx onnxruntime; cargo build --release --bin edge-run; Linux)

Every program runs the graph of the bundle on one thread, on texts of one length that are given at once. edge-run cuts them into runs
of 256 tokens; ONNX Runtime runs them as one batch. PATCH is any patch for the bundle. ONNX Runtime has the graph with constant
biases, their values in a file beside it, as for `onnxruntime_ratio.py`; with its prepacking of weights, and without it. Two figures
of a process after its second run, from /proc/PID/smaps_rollup: its anonymous memory, which is no file's, and its share of everything
(PSS), mapped weights and program included; no other process may map the bundle. Of ONNX Runtime's, that of as many processes with Python and its packages alone is
subtracted. Of several processes the figures are sums. tract is `edge-run --engine tract`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import onnxruntime_ratio

PROGRAMS = ("edge-run", "ONNX Runtime", "ONNX Runtime, not prepacked", "tract")


def memory_of(pid):
    """Megabytes of anonymous memory, and of its share of everything."""
    fields = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            name, *rest = line.split()
            if name.endswith(":") and rest:
                fields[name[:-1]] = int(rest[0])
    return [fields[name] * 1024 / 1e6 for name in ("Anonymous", "Pss")]


def worker(path, prepacked, vocabulary, length, batch):
    """A process of ONNX Runtime: waits for a line before it makes a session, says so after two runs, and ends with its input."""
    import onnxruntime

    print("imported", flush=True)
    sys.stdin.readline()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options)
    feeds = onnxruntime_ratio.feeds_of(session, vocabulary, [length] * batch)
    for _ in range(2):
        session.run(["last_hidden_state"], feeds)
    print("ran", flush=True)
    sys.stdin.read()


class OnnxRuntime:
    """ONNX Runtime in a process of its own."""

    def __init__(self, path, prepacked, vocabulary, length, batch):
        command = [sys.executable, __file__, "--worker", path, str(int(prepacked)), str(vocabulary), str(length), str(batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hear("imported")

    def hear(self, due):
        found = self.process.stdout.readline().strip()
        if found != due:
            raise SystemExit(f"ONNX Runtime's process: expected {due!r}, found {found!r}")

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.hear("ran")

    def memory(self):
        return memory_of(self.process.pid)

    def end(self):
        self.process.communicate("")


class EdgeRun:
    """edge-run, waiting for more lines than it was given."""

    def __init__(self, arguments, engine, length, batch):
        command = [arguments.edge_run, "--bundle", arguments.bundle, "--patch", arguments.patch, "--engine", engine]
        command += ["--max-length", str(length), "--batch", str(batch), "--output", "tsv"]
        # Texts are meant to be cut, so what it says of that is read only if it fails.
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.said)
        self.length, self.batch = length, batch

    def run(self):
        # Each line is another one, for equal ones would run once. A line of as many words has at least as many tokens.
        lines = "".join(f"{at} {'good ' * self.length}\n" for at in range(2 * self.batch))
        self.process.stdin.write(lines.encode())
        self.process.stdin.flush()
        self.wait()

    def wait(self):
        """Waits until it has slept for half a second, which is when all lines are answered."""
        used = None
        while True:
            with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            now = (fields[0], fields[11], fields[12])
            if now == used and fields[0] == "S":
                return
            used = now
            if self.process.poll() is not None:
                self.failed()
            time.sleep(0.5)

    def memory(self):
        return memory_of(self.process.pid)

    def end(self):
        self.process.communicate()
        if self.process.returncode:
            self.failed()

    def failed(self):
        self.said.seek(0)
        raise SystemExit(f"edge-run ended with {self.process.returncode}: {self.said.read().decode()}")


def main():
    if sys.argv[1:2] == ["--worker"]:
        path, *numbers = sys.argv[2:]
        return worker(path, *map(int, numbers))
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("patch")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--lengths", type=numbers, default=[8, 32, 128, 512])
    parser.add_argument("--batches", type=numbers, default=[1, 32])
    parser.add_argument("--processes", type=numbers, default=[1, 4, 16], help="of one text of the first length each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    manifest = json.load(open(os.path.join(arguments.bundle, "bundle.json"), encoding="utf-8"))["config"]
    lengths = [length for length in arguments.lengths if length <= manifest["max_length"]]
    found = []
    with tempfile.TemporaryDirectory() as directory:
        path = onnxruntime_ratio.graph_of(arguments.bundle, directory)

        def start(program, length, batch):
            if program.startswith("ONNX"):
                return OnnxRuntime(path, program == "ONNX Runtime", manifest["vocabulary"], length, batch)
            return EdgeRun(arguments, "tract" if program == "tract" else "lowered", length, batch)

        def measure(length, batch, processes):
            row = {"length": length, "batch": batch, "processes": processes}
            for program in PROGRAMS:
                running = [start(program, length, batch) for _ in range(processes)]
                total = lambda: [sum(each) for each in zip(*(one.memory() for one in running))]
                before = total() if program.startswith("ONNX") else [0, 0]
                [one.run() for one in running]
                row[program] = [round(now - then, 1) for now, then in zip(total(), before)]
                [one.end() for one in running]
            found.append(row)
            if not arguments.json:
                cells = "  ".join("{:9.1f} {:9.1f}".format(*row[program]).rjust(28) for program in PROGRAMS)
                print(f"{length:6} {batch:5} {processes:9}  {cells}", flush=True)

        if not arguments.json:
            print(f"{'':22}  " + "  ".join(program.rjust(28) for program in PROGRAMS))
            print("tokens batch processes  " + "  ".join(f"{'anonymous':>18} {'share MB':>9}" for _ in PROGRAMS))
        for batch in arguments.batches:
            for length in lengths:
                measure(length, batch, 1)
        for processes in arguments.processes:
            if processes > 1:
                measure(lengths[0], 1, processes)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
