"""Tests of patches in Ray Data and DuckDB, and of tables in Ray, over the demo's encoder.

usage: test_engines.py MODULE EDGE_RUN EDGE_PATCH
(pip install numpy 'ray[data]' duckdb; MODULE is the library that cargo built, target/debug/libedge_run_python.so; EDGE_RUN is
target/debug/edge-run, EDGE_PATCH target/debug/edge-patch; the demo's encoder is in the store; Linux)

A cluster of two workers is started on this machine. Answers are compared with edge-run's, to the last bit of scores and vectors.
"""

import faulthandler
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import cluster
import duckdb
import numpy
import package
import pyarrow
import pyarrow.parquet

LIBRARY, EDGE_RUN, EDGE_PATCH = (Path(each).resolve() for each in sys.argv[1:4])
package.install(LIBRARY)
import edge_run
import edge_run.duckdb
import edge_run.ray
import ray.data

ROOT = Path(__file__).resolve().parents[3]
PATCHES = ROOT / "patches" / "library"
FIXTURES = ROOT / "tests" / "fixtures"
WORDS = " ".join((FIXTURES / name).read_text(encoding="utf-8") for name in ("reviews.txt", "pairs.txt", "questions.txt")).split()
chance = random.Random(7)
TEXTS = [" ".join(chance.choices(WORDS, k=chance.randint(1, 24))) for _ in range(300)]
PAIRS = [*zip(TEXTS, TEXTS[1:] + TEXTS[:1])]
# Of a worker, beyond Python and what it imports: the claim of tests/tests/sharing.rs for a process of edge-run.
MOST_PRIVATE_MEGABYTES = 20
PANELS = r"/panels-\S+\.bin$"


def from_command(patch, lines, *options):
    """The answers of edge-run -o jsonl."""
    command = [EDGE_RUN, "-o", "jsonl", *options, "-p", PATCHES / patch]
    found = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True).stdout
    return [json.loads(row) for row in found.splitlines()]


def due(patch, field, lines=TEXTS):
    """A field of them. JSON has the shortest decimal digits of a float of 32 bits, of which columns have the double."""
    values = [row[field] for row in from_command(patch, lines, *(["--logits"] if field == "logits" else []))]
    return numpy.float32(values).tolist() if isinstance(values[0], (float, list)) else values


def pair_lines():
    return ["\t".join(pair) for pair in PAIRS]


def bundle():
    """The directory of the demo's encoder."""
    stored = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-run/bundles"
    return stored / edge_run.Encoder.of(PATCHES / "sst2.bias").digest


def memory(name, mapping=""):
    """Megabytes of this process's mappings whose line in smaps has a match."""
    inside, sum_kilobytes = False, 0
    with open("/proc/self/smaps", encoding="utf-8") as file:
        for line in file:
            if "-" in line.split(" ", 1)[0]:
                inside = re.search(mapping, line)
            elif inside and line.startswith(name + ":"):
                sum_kilobytes += int(line.split()[1])
    return sum_kilobytes * 1024 / 1e6


class Measured(edge_run.ray.Labeller):
    """Adds what its process has in memory after each batch, beyond what it had before the encoder."""

    def __init__(self, *arguments, **options):
        self.before = memory("Anonymous")
        super().__init__(*arguments, **options)

    def __call__(self, batch):
        table = super().__call__(batch)
        for name, value in [
            ("process", float(os.getpid())),
            ("private", memory("Anonymous") - self.before),
            ("weights", memory("Pss", PANELS)),
            ("changed", memory("Private_Dirty", PANELS)),
        ]:
            table = table.append_column(name, pyarrow.array([value] * len(table)))
        return table


class Ray(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Two processors for two workers, and one to read files with.
        cls.enterClassContext(cluster.started(processors=3))
        # What fails is raised too.
        logging.disable(logging.ERROR)
        cls.dataset = ray.data.from_arrow(pyarrow.table({"line": range(300), "sentence": TEXTS, "other": [b for _, b in PAIRS]}))

    def mapped(self, *patches, of=edge_run.ray.Labeller, dataset=None, workers=1, batch_format="default", **options):
        dataset = self.dataset if dataset is None else dataset
        return dataset.map_batches(
            of,
            fn_constructor_args=([PATCHES / patch for patch in patches],),
            fn_constructor_kwargs={"text": "sentence", **options},
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=25,
            batch_format=batch_format,
        )

    def rows(self, *patches, **options):
        return sorted(self.mapped(*patches, **options).take_all(), key=lambda row: row["line"])

    def test_two_workers_answer_as_the_command_and_share_the_weights(self):
        rows = self.rows("sst2.bias", "embed.bias", of=Measured, workers=2, dataset=self.dataset.repartition(12))
        self.assertEqual([row["sst2_label"] for row in rows], due("sst2.bias", "label"))
        self.assertEqual([row["sst2_score"] for row in rows], due("sst2.bias", "score"))
        self.assertEqual([list(row["embed_vector"]) for row in rows], due("embed.bias", "embedding"))
        self.assertEqual([row["sentence"] for row in rows], TEXTS)

        def of_workers(name, choose):
            return [choose(row[name] for row in rows if row["process"] == process) for process in processes]

        processes = sorted({row["process"] for row in rows})
        # The least share, for a worker that starts or ends alone has all of the file to itself.
        private, weights = of_workers("private", max), of_workers("weights", min)
        [file] = bundle().glob("panels-*.bin")
        file = file.stat().st_size / 1e6
        print(f"private to a worker, beyond Python: {[round(each, 1) for each in private]} MB; its share of {file:.1f} MB of "
              f"weights: {[round(each, 1) for each in weights]} MB", file=sys.stderr)
        self.assertEqual(len(processes), 2)
        self.assertTrue(0 < sum(weights) <= file, weights)
        self.assertEqual(max(of_workers("changed", max)), 0)
        self.assertLess(max(private), MOST_PRIVATE_MEGABYTES)

    def test_pairs_and_every_form_of_a_batch(self):
        for batch_format in ("default", "pandas", "pyarrow"):
            rows = self.rows("mrpc.bias", "stsb.bias", pair="other", batch_format=batch_format)
            for patch, field in [("mrpc.bias", "label"), ("mrpc.bias", "score"), ("stsb.bias", "value")]:
                column = f"{patch.removesuffix('.bias')}_{field}"
                self.assertEqual([row[column] for row in rows], due(patch, field, pair_lines()), column)

    def test_logits_are_the_command_s(self):
        rows = self.rows("mrpc.bias", "stsb.bias", pair="other", logits=True)
        for name in ("mrpc", "stsb"):
            self.assertEqual([row[f"{name}_logits"] for row in rows], due(f"{name}.bias", "logits", pair_lines()))

    def test_a_text_that_cannot_be_answered_ends_the_run_or_has_an_error(self):
        texts = ["a joy", "", None, "two hours"]
        dataset = ray.data.from_arrow(pyarrow.table({"line": range(4), "sentence": texts}))
        rows = self.rows("sst2.bias", "embed.bias", dataset=dataset, errors="return")
        for name, field in [("sst2", "label"), ("embed", "vector")]:
            self.assertEqual([row[f"{name}_{field}"] is None for row in rows], [False, True, True, False])
            self.assertEqual([row[f"{name}_error"] is None for row in rows], [True, False, False, True])
            self.assertIn("empty text", rows[1][f"{name}_error"])
            self.assertIn("found a NoneType", rows[2][f"{name}_error"])
        self.fails("sst2, text '': empty text", "sst2.bias", dataset=dataset)
        self.fails("embed, text '': empty text", "embed.bias", dataset=dataset)

    def test_refusals_say_what_is_wrong(self):
        self.fails("expected a column 'review' of texts, found line, sentence, other", "sst2.bias", text="review")
        self.fails("expected no column 'sst2_label'", "sst2.bias", "sst2.bias")
        self.fails("expected one text, found a pair", "sst2.bias", pair="other")
        # What a worker would say before its first batch.
        for said, patches, options in [
            ("expected a list of patches, found a str", "sst2.bias", {}),
            ("expected one or more, found none", [], {}),
            ('expected "raise" or "return"', [PATCHES / "sst2.bias"], {"errors": "warn"}),
            ("nowhere", [PATCHES / "sst2.bias"], {"encoder": "nowhere"}),
        ]:
            with self.assertRaisesRegex(edge_run.Error, re.escape(said)):
                edge_run.ray.Labeller(patches, **options)

    def fails(self, said, *patches, **options):
        with self.assertRaisesRegex(ray.exceptions.RayError, re.escape(said)):
            self.rows(*patches, **options)

    def test_the_example_of_the_readme(self):
        example("import edge_run.ray\n")
        written = pyarrow.parquet.read_table("labelled").select(["sentence", "sst2_label", "sst2_score"]).to_pydict()
        self.assertEqual(sorted(zip(*written.values())), sorted(zip(TEXTS, due("sst2.bias", "label"), due("sst2.bias", "score"))))


    def test_a_table_is_that_of_the_command(self):
        for name, count in [("train", 32), ("dev", 16)]:
            rows = "".join(f"{text} {['bad', 'good'][at % 2]}\t{at % 2}\n" for at, text in enumerate(TEXTS[:count]))
            Path(f"{name}.tsv").write_text("sentence\tlabel\n" + rows, encoding="utf-8")
        task = {"name": "mood", "kind": "classification", "labels": ["bad", "good"], "pooling": "mean"}
        Path("sst2.json").write_text(json.dumps(task))
        Path("minilm").symlink_to(bundle())
        example("edge_run.ray.table(", edge_run=edge_run)
        recipe = ["--lr", "1e-3,3e-3", "--seeds", "3", "--rate-by-first-seed"]
        command = [EDGE_PATCH, "table", "--encoder", "minilm", "--rows", "frozen,bq+bm2,all", *recipe]
        files = ["--data", "sst2=sst2.json,train.tsv,dev.tsv", "--results", "theirs", "-o", "theirs.md"]
        subprocess.run([*command, *files], check=True, capture_output=True)
        self.assertEqual(Path("table.md").read_text(), Path("theirs.md").read_text())
        ours, theirs = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("results", "theirs"))
        # Results and patches.
        self.assertEqual(len(theirs), 3 + 3)
        self.assertTrue(ours == theirs, "other results")
        for said, data in [("expected NAME=TASK,TRAIN,DEV", ["a"]), ("nowhere", ["a=nowhere,train.tsv,dev.tsv"])]:
            with self.assertRaisesRegex(edge_run.Error, re.escape(said)):
                edge_run.ray.table("minilm", data, ["frozen"], "results", "x.md")
        self.assertFalse(Path("x.md").exists())
        # Paths are those of the program, wherever tasks run.
        self.addCleanup(os.chdir, os.getcwd())
        Path("elsewhere").mkdir()
        os.chdir("elsewhere")
        edge_run.ray.table("../minilm", ["sst2=../sst2.json,../train.tsv,../dev.tsv"], ["frozen"], "results", "table.md", epochs=1)
        self.assertEqual(sorted(path.name for path in Path("results").iterdir()), ["sst2-frozen.bias", "sst2-frozen.bias.json"])


class DuckDB(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.encoder = edge_run.Encoder.of(PATCHES / "sst2.bias")

    def setUp(self):
        self.connection = duckdb.connect()
        self.addCleanup(self.connection.close)
        self.reviews = pyarrow.table({"line": range(300), "sentence": TEXTS, "other": [b for _, b in PAIRS]})
        self.connection.register("reviews", self.reviews)

    def column(self, expression):
        return [value for value, in self.connection.sql(f"SELECT {expression} FROM reviews ORDER BY line").fetchall()]

    def add(self, *names):
        for name in names:
            edge_run.duckdb.register(self.connection, name, PATCHES / f"{name}.bias", self.encoder)

    def test_functions_answer_as_the_command(self):
        self.add("sst2", "mrpc", "stsb", "embed", "pos", "answer")
        self.assertEqual(self.column("sst2(sentence).label"), due("sst2.bias", "label"))
        self.assertEqual(self.column("sst2(sentence).score"), due("sst2.bias", "score"))
        self.assertEqual(self.column("mrpc(sentence, other).score"), due("mrpc.bias", "score", pair_lines()))
        self.assertEqual(self.column("stsb(sentence, other)"), due("stsb.bias", "value", pair_lines()))
        self.assertEqual([list(vector) for vector in self.column("embed(sentence)")], due("embed.bias", "embedding"))
        for patch, field, expression, lines in [
            ("pos.bias", "tags", "pos(sentence)", TEXTS),
            ("answer.bias", "spans", "answer(sentence, other).spans", pair_lines()),
        ]:
            rows = [[{**each, "score": float(numpy.float32(each["score"]))} for each in row[field]] for row in from_command(patch, lines)]
            self.assertEqual(self.column(expression), rows)

    def test_logits_are_the_command_s(self):
        for name in ("sst2", "stsb"):
            edge_run.duckdb.register(self.connection, name, PATCHES / f"{name}.bias", self.encoder, logits=True)
        self.assertEqual(self.column("sst2(sentence).logits"), due("sst2.bias", "logits"))
        self.assertEqual(self.column("stsb(sentence, other).logits"), due("stsb.bias", "logits", pair_lines()))
        with self.assertRaisesRegex(edge_run.Error, "logits: expected a patch for one of classification, .*, found tagging"):
            edge_run.duckdb.register(self.connection, "pos", PATCHES / "pos.bias", self.encoder, logits=True)

    def test_several_labels_are_a_list(self):
        labels = [[label for at, label in enumerate(("a", "b", "c")) if line >> at & 1] for line in range(40)]
        edge_run.train(self.encoder, TEXTS[:40], labels, "topics.bias", kind="multi-label", slots="frozen", epochs=1, progress=False)
        edge_run.duckdb.register(self.connection, "topics", "topics.bias", self.encoder)
        due = [answer["labels"] for [answer] in self.encoder.predict(TEXTS, [self.encoder.attach("topics.bias")])]
        self.assertTrue(any(due))
        self.assertEqual(self.column("topics(sentence)"), due)

    def test_a_field_more_is_no_call_more_and_chunks_are_many(self):
        self.add("sst2")
        plan = self.connection.sql("EXPLAIN SELECT sst2(sentence).label, sst2(sentence).score FROM reviews").fetchall()[0][1]
        self.assertEqual(plan.count("sst2("), 1, plan)
        found = self.connection.sql("SELECT sst2(sentence).label, count(*) FROM reviews, range(8) GROUP BY ALL").fetchall()
        labels = due("sst2.bias", "label")
        self.assertEqual(dict(found), {label: 8 * labels.count(label) for label in set(labels)})

    def test_null_gives_null(self):
        self.add("sst2", "mrpc", "embed")
        found = self.connection.sql("SELECT sst2(a), mrpc(a, b), embed(b) FROM (VALUES (NULL, 'b'), ('a', NULL)) AS t(a, b)").fetchall()
        self.assertEqual([[value is None for value in row] for row in found], [[True, True, False], [False, True, True]])

    def test_errors_quote_the_text(self):
        self.add("sst2", "embed")
        for said, query in [
            ("sst2, text ' ': empty text", "SELECT sst2(' ')"),
            ("embed, text '': empty text", "SELECT embed('')"),
            ("Candidate functions:\n\tsst2(VARCHAR)", "SELECT sst2('a', 'b')"),
        ]:
            with self.assertRaisesRegex(duckdb.Error, re.escape(said)):
                self.connection.sql(query).fetchall()
        with self.assertRaisesRegex(edge_run.Error, "nowhere"):
            edge_run.duckdb.register(self.connection, "other", PATCHES / "sst2.bias", "nowhere")

    def test_the_example_of_the_readme(self):
        names = example("import edge_run.duckdb\n")
        self.assertEqual(names["labelled"].columns, ["sentence", "label", "score"])
        self.assertEqual(sorted(names["labelled"].fetchall()), sorted(zip(TEXTS, due("sst2.bias", "label"), due("sst2.bias", "score"))))


class Columns(unittest.TestCase):
    def test_columns_of_arrow_and_pandas_are_texts(self):
        encoder = edge_run.Encoder.of(PATCHES / "sst2.bias")
        sst2, embed = encoder.attach(PATCHES / "sst2.bias"), encoder.attach(PATCHES / "embed.bias")
        column = pyarrow.table({"text": TEXTS[:40]})["text"]
        for texts in (column, column.chunk(0), column.to_pandas(), column.to_numpy(), column.cast(pyarrow.large_string())):
            self.assertEqual(encoder.predict(texts, [sst2]), encoder.predict(TEXTS[:40], [sst2]), type(texts))
            self.assertEqual(encoder.embed(texts, embed).tobytes(), encoder.embed(TEXTS[:40], embed).tobytes(), type(texts))


def example(part, **names):
    """Runs the README's code that has a part, beside the files that it names. Gives what it names."""
    readme = (ROOT / "runtime/python/README.md").read_text(encoding="utf-8")
    [code] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if part in code]
    exec(code, names)
    return names


if __name__ == "__main__":
    # A cluster waits for ever for a processor that it does not have.
    faulthandler.dump_traceback_later(600, exit=True)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(PATCHES / "sst2.bias", directory)
        pyarrow.parquet.write_table(pyarrow.table({"sentence": TEXTS}), Path(directory, "reviews.parquet"))
        # Where workers are too.
        os.chdir(directory)
        unittest.main(argv=sys.argv[:1] + sys.argv[4:] + ["-v"], warnings="ignore")
