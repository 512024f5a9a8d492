#!/usr/bin/env python3
"""Trains the tables of PAPER.md as far as results/ does not have them, and writes its tables and pictures.

usage: paper.py BUNDLE DATA [--only NAME ...] [--page] [--results DIR]
(edge-patch is on the PATH; BUNDLE is an encoder in f32; DATA has a directory for each data set: CoLA, MRPC, RTE and so on, each with
train and dev files in the formats of edge-patch train, and a test file only if it has labels)

Every result is kept, so a run that was stopped goes on where it was. --page writes the page from what is kept, and trains nothing.
With --results DIR results are kept there, and the page is written there too.
"""

import argparse
import pathlib
import re
import subprocess

LIBRARY = pathlib.Path(__file__).resolve().parent

# Name of a data set: directory, task, metric.
DATA_SETS = {
    "cola": ("CoLA", "cola", "Matthews"),
    "rte": ("RTE", "rte", "accuracy"),
    "mrpc": ("MRPC", "mrpc", "accuracy"),
    "stsb": ("STS-B", "stsb", "Spearman"),
    "sst2s": ("SST2-sentences", "sst2", "accuracy"),
    "sst2": ("SST-2", "sst2", "accuracy"),
    "qnli": ("QNLI", "qnli", "accuracy"),
    "qqp": ("QQP", "qqp", "accuracy"),
    "pos": ("UD-EWT-POS", "pos", "token accuracy"),
    "policyqa": ("PolicyQA", "answer", "F1"),
}

# Whose changes of biases are drawn.
CHANGES = ("cola", "mrpc", "sst2s", "stsb")

# Rows and their flags, the most wanted first. Full fine-tuning is done for 3 epochs, as is usual, at the best of three learning rates.
ROWS = [
    (["all+lora:all@1", "all", "frozen"], []),
    (["full@3e-5@1e-4@3e-4"], ["--epochs", "3", "--rate-by-first-seed"]),
    (["all+lora:q+v@1", "bq+bm2", "bq", "bm2"], []),
    (["random", "rows"], []),
]


def edge_patch(*arguments):
    done = subprocess.run(["edge-patch", *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout


def data(name, directory):
    """The value of --data for a data set, or None where it is not there."""
    place, task, metric = DATA_SETS[name]
    files = {part: next(iter(sorted((directory / place).glob(f"{part}.*"))), None) for part in ("train", "dev", "test")}
    if not files["train"] or not files["dev"]:
        return None
    test = f",test={files['test']}" if files["test"] else ""
    return f"{name}={LIBRARY / 'tasks' / task}.json,{files['train']},{files['dev']},{metric}{test}"


def train(bundle, directory, only, results):
    columns = {name: data(name, directory) for name in only}
    for name in [name for name in only if columns[name] is None]:
        print(f"{name}: left out, no train and dev files in {directory / DATA_SETS[name][0]}")
    if not any(columns.values()):
        raise SystemExit(f"{directory}: expected directories such as CoLA, with train.tsv and dev.tsv, found none")
    for rows, flags in ROWS:
        for column in [columns[name] for name in only if columns[name]]:
            for row in rows:
                # A cell at a time: --cell writes no table.
                edge_patch("table", "--encoder", bundle, "--data", column, "--rows", row, "--seeds", 3, "--results", results,
                           "--cell", "0/1", *flags)


def page(results):
    """Writes the parts of PAPER.md that are made, each between its two marks, and the pictures."""
    path = LIBRARY / "PAPER.md"
    text = path.read_text()
    names = sorted({file.name.split("-")[0] for file in results.glob("*.bias.json")})
    whole = [name for name in names if list(results.glob(f"{name}-full*.bias.json"))]
    begun = [name for name in names if name not in whole]
    made = {"results": edge_patch("results", results, "--data", ",".join(whole)).strip()}
    # Without full fine-tuning there is nothing to compare with: of the first table the rows that are there.
    table = edge_patch("results", results, "--data", ",".join(begun)).split("\n\n")[0].splitlines() if begun else ["None."]
    made["begun"] = "\n".join(row for row in table if set(row.split(" | ")[1:]) - {"-", "- |"} or row.startswith("|-"))
    for mark, table in made.items():
        marked = rf"(<!-- made by paper.py: {mark} -->\n).*?(<!-- end -->)"
        text, count = re.subn(marked, lambda found: f"{found[1]}\n{table}\n\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{path}: expected one place for {mark}, found {count}")
    place = LIBRARY if results == LIBRARY / "results" else results
    (place / "pictures").mkdir(exist_ok=True)
    (place / "PAPER.md").write_text(text)
    edge_patch("plot", "results", results, "--data", ",".join(whole), "-o", place / "pictures/bytes.svg")
    # Patches are beside the results where they were trained, and not in the repository.
    patches = [results / f"{name}-all.bias" for name in CHANGES]
    if all(patch.exists() for patch in patches):
        edge_patch("plot", "changes", *patches, "-o", place / "pictures/changes.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=pathlib.Path, nargs="?")
    parser.add_argument("data", type=pathlib.Path, nargs="?")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, default=list(DATA_SETS))
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, default=LIBRARY / "results")
    arguments = parser.parse_args()
    if not arguments.page:
        if not arguments.bundle or not arguments.data:
            parser.error("expected BUNDLE and DATA, or --page")
        train(arguments.bundle.resolve(), arguments.data.resolve(), arguments.only, arguments.results.resolve())
    page(arguments.results.resolve())


if __name__ == "__main__":
    main()
