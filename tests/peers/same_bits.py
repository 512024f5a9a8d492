"""Compares a patch's logits from edge-run, Python, C, Ray Data and DuckDB, bit for bit.

usage: same_bits.py MODULE EDGE_RUN PATCH TEXTS [--bundle DIR]
(pip install numpy 'ray[data]' duckdb; cc; MODULE is the library that cargo built, target/debug/libedge_run_python.so, and
libedge_run_c.so is beside it; TEXTS has a text a line, or is a TSV file with a column `sentence`, such as SST-2's dev.tsv; the
encoder is in DIR, or in the store; PATCH is for classification, regression or multi-label on one text; Linux)

Prints a row for each way. One that has another bit in any logit ends the run with 1.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "runtime/python/tests"))
import cluster
import package

PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "edge_run.h"
static char line[1 << 20];
int main(int count, char **arguments) {
    edge_run_encoder *encoder;
    edge_run_task *task;
    if (count != 3 || edge_run_open(arguments[1], NULL, &encoder) || edge_run_attach(encoder, arguments[2], &task)) {
        return fprintf(stderr, "%s\\n", edge_run_last_error()), 1;
    }
    while (fgets(line, sizeof line, stdin)) {
        edge_run_request request = {task, line, strcspn(line, "\\n"), NULL, 0};
        edge_run_answers *answers;
        if (edge_run_predict(encoder, &request, 1, &answers)) {
            return fprintf(stderr, "%s\\n", edge_run_last_error()), 1;
        }
        size_t logits;
        const float *values = edge_run_answer_logits(edge_run_answer_at(answers, 0), &logits);
        for (size_t at = 0; at < logits; at++) {
            printf("%.9g ", values[at]);
        }
        printf("\\n");
        edge_run_answers_free(answers);
    }
    return 0;
}
"""


def read_texts(file):
    with open(file, encoding="utf-8", newline="") as lines:
        if file.suffix == ".tsv":
            return [row["sentence"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
        return lines.read().splitlines()


def from_command(edge_run, bundle, patch, texts):
    command = [edge_run, "--bundle", bundle, "-p", patch, "-o", "jsonl", "--logits"]
    found = subprocess.run(command, input="\n".join(texts) + "\n", stdout=subprocess.PIPE, text=True).stdout
    rows = [json.loads(row) for row in found.splitlines()]
    for row in rows:
        if "logits" not in row:
            sys.exit(f"line {row['line']}: expected logits, found {row.get('error', 'none, as this kind of task has')}")
    return [row["logits"] for row in rows]


def from_c(library, bundle, patch, texts, home):
    Path(home, "program.c").write_text(PROGRAM)
    # The name that the loader looks for.
    [version] = re.findall(r"#define EDGE_RUN_ABI_VERSION (\d+)", (ROOT / "runtime/capi/include/edge_run.h").read_text())
    Path(home, f"libedge_run.so.{version}").symlink_to(library)
    subprocess.run(
        ["cc", "-O1", "-std=c99", f"-I{ROOT}/runtime/capi/include", "program.c", library, "-Wl,-rpath,.", "-o", "program"],
        cwd=home, check=True,
    )
    found = subprocess.run(
        ["./program", bundle, patch], cwd=home, input="\n".join(texts) + "\n", capture_output=True, text=True, check=True
    )
    return [[float(value) for value in row.split()] for row in found.stdout.splitlines()]


def from_ray(edge_run, pyarrow, bundle, patch, texts, column):
    import ray.data

    with cluster.started(processors=3):
        rows = ray.data.from_arrow(pyarrow.table({"line": range(len(texts)), "text": texts})).repartition(8).map_batches(
            edge_run.ray.Labeller,
            fn_constructor_args=([patch],),
            fn_constructor_kwargs={"encoder": bundle, "logits": True},
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=25,
        ).take_all()
    return [row[column] for row in sorted(rows, key=lambda row: row["line"])]


def from_duckdb(edge_run, duckdb, pyarrow, bundle, patch, texts):
    with duckdb.connect() as connection:
        edge_run.duckdb.register(connection, "task", patch, bundle, logits=True)
        connection.register("texts", pyarrow.table({"line": range(len(texts)), "text": texts}))
        return [logits for logits, in connection.sql("SELECT task(text).logits FROM texts ORDER BY line").fetchall()]


def main(arguments, home):
    module = arguments.module.resolve()
    package.install(module)
    import duckdb
    import edge_run
    import edge_run.duckdb
    import edge_run.ray
    import pyarrow

    texts, patch = read_texts(arguments.texts), str(arguments.patch.resolve())
    encoder = edge_run.Encoder.of(patch) if arguments.bundle is None else edge_run.Encoder(arguments.bundle)
    store = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-run/bundles"
    bundle = str(store / encoder.digest if arguments.bundle is None else arguments.bundle.resolve())
    task = encoder.attach(patch)
    ways = {
        "edge-run": from_command(arguments.edge_run, bundle, patch, texts),
        "Python, one by one": [task(text)["logits"] for text in texts],
        "Python, all at once": [answer["logits"] for answer, in encoder.predict(texts, [task])],
        "C": from_c(module.with_name("libedge_run_c.so"), bundle, patch, texts, home),
        "Ray Data, two workers": from_ray(edge_run, pyarrow, bundle, patch, texts, f"{task.name}_logits"),
        "DuckDB": from_duckdb(edge_run, duckdb, pyarrow, bundle, patch, texts),
    }
    due = numpy.float32(ways["edge-run"])
    assert due.shape[0] == len(texts) and due.size > 0
    print(f"{'logits from':22} {'texts':>6} {'of which differ':>16}")
    differ = 0
    for way, logits in ways.items():
        found = numpy.float32(logits)
        # Compared as bits: a negative zero is not zero.
        others = int((found.view(numpy.uint32) != due.view(numpy.uint32)).any(axis=1).sum()) if found.shape == due.shape else len(texts)
        print(f"{way:22} {len(found):6} {others:16}")
        differ += others
    return int(differ > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("edge_run", type=Path)
    parser.add_argument("patch", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--bundle", type=Path)
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(main(parser.parse_args(), directory))
