"""Checks patches/maker/deploy/table.yaml against Kubernetes's schema, and runs its pods as processes, one of which is killed.

usage: table_job.py --edge-export PATH --edge-patch PATH
(pip install kubernetes-validate numpy safetensors)

The table that is then written has to be the table of one process, byte for byte, and so have the results.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import kubernetes_validate
import random_encoder
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The first in which an index may fail without the Job.
KUBERNETES = "1.33"
# Enough for checkpoints, each after 20 steps of 16, to be there long before the end.
TRAIN, DEV = 800, 100


def write_data(directory, name, pairs, chance):
    """A task, and texts whose words decide the label."""
    fields = {"labels": ["no", "yes"], "inputs": 2 if pairs else 1, "pooling": "mean", "max_length": 40}
    task = {"name": name, "kind": "classification", **fields}
    (directory / f"{name}.json").write_text(json.dumps(task))
    columns = ["sentence1", "sentence2"] if pairs else ["sentence"]
    for split, count in [("train", TRAIN), ("dev", DEV)]:
        rows = ["\t".join([*columns, "label"])]
        for at in range(count):
            words = [*chance.choices("film very the was not it cafe".split(), k=4), ["bad", "good"][at % 2]]
            rows.append("\t".join([" ".join(words) for _ in columns] + [str(at % 2)]))
        (directory / f"{name}-{split}.tsv").write_text("\n".join(rows) + "\n")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def main(edge_export, edge_patch, directory):
    job = yaml.safe_load((ROOT / "patches/maker/deploy/table.yaml").read_text(encoding="utf-8"))
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    [container] = job["spec"]["template"]["spec"]["containers"]
    environment = os.environ | {one["name"]: one["value"] for one in container["env"]}
    assert container["command"] == ["edge-patch", "table"], container["command"]

    chance = random.Random(3)
    write_data(directory, "sst2", False, chance)
    write_data(directory, "mrpc", True, chance)
    random_encoder.main("small-bert", directory / "checkpoint")
    subprocess.run([edge_export, "checkpoint", "-o", "minilm"], cwd=directory, stdout=subprocess.DEVNULL, check=True)

    def started(arguments):
        command = [edge_patch, "table", *arguments]
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def done(process):
        said = process.communicate()[1]
        assert process.returncode == 0, said
        return said

    def pod(index):
        return started([argument.replace("$(JOB_COMPLETION_INDEX)", str(index)) for argument in container["args"]])

    def table(results):
        """Writes the table of these results, and says whether anything was trained."""
        arguments = [argument for argument in container["args"] if not argument.startswith(("--cell=", "--results="))]
        return "epoch" in done(started([*arguments, f"--results={results}", "-o", f"{results}.md"]))

    indexes, began = [*range(job["spec"]["completions"])], time.monotonic()
    killed, others = pod(indexes[0]), indexes[1:]
    while not [*directory.glob("results/*.training")]:
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, killed.returncode
    # Two at a time, the one that was killed last, as a Job starts it again.
    queue = [*others, indexes[0]]
    for at in range(0, len(queue), 2):
        for process in [pod(index) for index in queue[at:at + 2]]:
            done(process)
    assert not table("results"), "the table was trained, not merged"
    pods = time.monotonic() - began
    assert table("one")
    assert (directory / "results.md").read_bytes() == (directory / "one.md").read_bytes(), "another table"
    assert contents(directory / "results") == contents(directory / "one"), "other results"
    print((directory / "one.md").read_text())
    print(f"{len(indexes)} pods, one killed: {pods:.0f} s; one process: {time.monotonic() - began - pods:.0f} s; the same bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-export", required=True, type=os.path.abspath)
    parser.add_argument("--edge-patch", required=True, type=os.path.abspath)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        main(arguments.edge_export, arguments.edge_patch, pathlib.Path(home))
