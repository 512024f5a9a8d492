"""Tests of the Python module, over the demo's encoder.

usage: test_edge_run.py MODULE EDGE_RUN
(pip install numpy; MODULE is the library that cargo built, target/debug/libedge_run_python.so; EDGE_RUN is target/debug/edge-run; the
demo's encoder is in the store)

Answers are compared with edge-run's, to the last bit of logits, scores and vectors.
"""

import ast
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import numpy
import package

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "patches" / "library"
TEXTS = (ROOT / "tests" / "fixtures" / "reviews.txt").read_text(encoding="utf-8").splitlines()
PAIRS = [(a, b) for a, b in zip(TEXTS, TEXTS[1:])]


def from_command(patches, lines, *options):
    """The answers of edge-run -o jsonl, a list for each line; with logits, which tags do not have."""
    logits = [] if patches == ["pos.bias"] else ["--logits"]
    command = [EDGE_RUN, "-o", "jsonl", *logits, *options]
    command += [word for patch in patches for word in ("-p", LIBRARY / patch)]
    found = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True).stdout
    rows = [json.loads(row) for row in found.splitlines()]
    return [rows[at : at + len(patches)] for at in range(0, len(rows), len(patches))]


class Table:
    """As pandas has them: to iterate gives the names of its columns."""

    columns = ["text", "label"]

    def __iter__(self):
        return iter(self.columns)


class EdgeRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.encoder = edge_run.Encoder.of(LIBRARY / "sst2.bias")

    def same(self, found, due):
        for field, value in due.items():
            if field not in ("line", "task"):
                # JSON has the shortest decimal digits of a float of 32 bits.
                found_field = found[field]
                if isinstance(value, float) or field == "logits":
                    self.assertEqual(numpy.float32(found_field).tolist(), numpy.float32(value).tolist(), field)
                else:
                    self.assertEqual(json.loads(json.dumps(found_field)), value, field)

    def test_tasks_answer_as_the_command(self):
        patches = ["sst2.bias", "embed.bias"]
        tasks = [self.encoder.attach(LIBRARY / patch) for patch in patches]
        found = self.encoder.predict(TEXTS, tasks)
        due = from_command(patches, TEXTS)
        self.assertEqual(len(found), len(TEXTS))
        for answers, lines in zip(found, due):
            self.same(answers[0], lines[0])
            self.assertEqual(numpy.float32(answers[1]["embedding"]).tolist(), numpy.float32(lines[1]["embedding"]).tolist())

    def test_pairs_words_and_entities(self):
        mrpc = self.encoder.attach(LIBRARY / "mrpc.bias")
        for pair, due in zip(PAIRS, from_command(["mrpc.bias"], ["\t".join(pair) for pair in PAIRS])):
            self.same(self.encoder.predict([pair], [mrpc])[0][0], due[0])
        pos = self.encoder.attach(LIBRARY / "pos.bias")
        self.assertEqual(pos(["a", "joy"])["tags"], pos("a joy")["tags"])
        for options, flags in [({}, []), ({"entities": "average"}, ["--entities=average"])]:
            tagged = self.encoder.attach(LIBRARY / "pos.bias", **options)
            due = from_command(["pos.bias"], TEXTS, *flags)
            for answers, lines in zip(self.encoder.predict(TEXTS, [tagged]), due):
                field = "entities" if options else "tags"
                scores = [numpy.float32([each["score"] for each in row[field]]).tolist() for row in (answers[0], lines[0])]
                self.assertEqual(*scores)
                rest = [[{k: v for k, v in each.items() if k != "score"} for each in row[field]] for row in (answers[0], lines[0])]
                self.assertEqual(*rest)
        self.assertEqual(pos.kind, "tagging")
        self.assertIn("NOUN", pos.labels)

    def test_vectors_are_an_array(self):
        task = self.encoder.attach(LIBRARY / "embed.bias")
        vectors = self.encoder.embed(TEXTS, task)
        self.assertEqual((vectors.dtype, vectors.shape), (numpy.float32, (len(TEXTS), 384)))
        raw = subprocess.run([EDGE_RUN, "-p", LIBRARY / "embed.bias", "-o", "f32"], input="\n".join(TEXTS).encode() + b"\n",
                             capture_output=True, check=True).stdout
        self.assertEqual(vectors.tobytes(), raw)
        self.assertEqual(self.encoder.embed([], task).shape, (0, 384))
        self.assertEqual(self.encoder.embed((text for text in TEXTS), task).tobytes(), raw)

    def test_one_text_is_a_call(self):
        task = self.encoder.attach(LIBRARY / "sst2.bias")
        self.assertEqual(task(TEXTS[0]), self.encoder.predict([TEXTS[0]], [task])[0][0])
        of_bytes = self.encoder.attach((LIBRARY / "sst2.bias").read_bytes())
        self.assertEqual(of_bytes(TEXTS[0]), task(TEXTS[0]))
        self.assertEqual((task.name, task.kind, task.inputs), ("sst2", "classification", 1))
        self.assertEqual(self.encoder.attach(LIBRARY / "mrpc.bias").inputs, 2)
        self.assertEqual(edge_run.Encoder.of((LIBRARY / "sst2.bias").read_bytes()).digest, self.encoder.digest)
        self.assertEqual(len(task(TEXTS[0], top_k=2)["top"]), 2)
        self.assertEqual(len(self.encoder.digest), 64)

    def test_many_texts_run_in_parts_and_bundles_are_opened_by_directory(self):
        stored = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-run/bundles"
        other = edge_run.Encoder(stored / self.encoder.digest, threads=2, engine="lowered", activations="f32")
        self.assertEqual((other.digest, other.name), (self.encoder.digest, self.encoder.name))
        texts = [f"{at} {TEXTS[at % len(TEXTS)]}" for at in range(600)]
        short = self.encoder.attach(LIBRARY / "sst2.bias")
        found = other.predict(texts, [other.attach(LIBRARY / "sst2.bias")], max_length=12)
        for answers, lines in zip(found, from_command(["sst2.bias"], texts, "--max-length", "12")):
            self.same(answers[0], lines[0])
        self.assertEqual(short(texts[0], max_length=12)["logits"], found[0][0]["logits"])

    def test_threads_answer_at_once(self):
        task = self.encoder.attach(LIBRARY / "sst2.bias")
        due = [answers[0]["logits"] for answers in self.encoder.predict(TEXTS, [task])]
        found = [None] * 4

        def answer(at):
            found[at] = [answers[0]["logits"] for answers in self.encoder.predict(TEXTS, [task])]

        threads = [threading.Thread(target=answer, args=(at,)) for at in range(len(found))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        self.assertEqual(found, [due] * len(found))

    def test_a_forked_process_is_told_to_load_its_own(self):
        several = edge_run.Encoder.of(LIBRARY / "sst2.bias", threads=2)
        task = several.attach(LIBRARY / "sst2.bias")
        alone = self.encoder.attach(LIBRARY / "sst2.bias")

        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)

        def train(text):
            edge_run.train(several, [text, "b"], [0, 1], directory.name + "/x.bias", progress=False)

        for tried, due in [(task, "Error"), (train, "Error"), (alone, "answered")]:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    tried("a joy")
                    os.write(writer, b"answered")
                except edge_run.Error as error:
                    os.write(writer, b"Error" if "load it here" in str(error) else str(error).encode())
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as said:
                self.assertEqual(said.read(), due)
            os.waitpid(child, 0)

    def test_types_are_those_of_what_is_there_and_all_of_it_says_what_it_does(self):
        stub = ast.parse((Path(__file__).parents[1] / "edge_run" / "__init__.pyi").read_text(encoding="utf-8"))

        def compare(nodes, there):
            for node in nodes:
                found = getattr(there, node.name)
                if isinstance(node, ast.ClassDef):
                    compare([each for each in node.body if isinstance(each, ast.FunctionDef)], found)
                elif [decorator.id for decorator in node.decorator_list] != ["property"] and node.name != "__call__":
                    # Python gives the arguments of a class for those of __new__, and none for __call__.
                    signature = inspect.signature(there if node.name == "__new__" else found)
                    arguments = [each.arg for each in node.args.args + node.args.kwonlyargs if each.arg not in ("self", "cls")]
                    self.assertEqual(arguments, [name for name in signature.parameters if name != "self"], node.name)
                self.assertTrue(found.__doc__, node.name)

        public = [node for node in stub.body if getattr(node, "name", None) in edge_run.__all__]
        self.assertEqual({node.name for node in public}, {*edge_run.__all__})
        compare(public, edge_run)

    def test_refusals_say_what_is_wrong(self):
        task, embed = self.encoder.attach(LIBRARY / "sst2.bias"), self.encoder.attach(LIBRARY / "embed.bias")
        for said, call in [
            ("nowhere.bias", lambda: self.encoder.attach("nowhere.bias")),
            ("not a bias patch", lambda: self.encoder.attach(b"a joy")),
            ("nowhere", lambda: edge_run.Encoder("nowhere")),
            ("threads: expected 1 to 256", lambda: edge_run.Encoder.of(LIBRARY / "sst2.bias", threads=3000)),
            ("expected auto or lowered or tract", lambda: edge_run.Encoder("nowhere", engine="gpu")),
            ("expected a tagging task", lambda: self.encoder.attach(LIBRARY / "sst2.bias", entities="first")),
            ("expected simple or first", lambda: self.encoder.attach(LIBRARY / "pos.bias", entities="last")),
            ("empty", lambda: task(" ")),
            ("expected one text, found a pair", lambda: task(("a", "b"))),
            ("expected a text, or a tuple of two, found a int", lambda: task(3)),
            ("expected a text, or a tuple of two, found a tuple", lambda: task(("a", "b", "c"))),
            # Several texts are not one.
            ("expected a text, or a tuple of two, found a list", lambda: task(["a joy", "awful"])),
            ("expected a text, or a tuple of two, found a ndarray", lambda: task(numpy.array(["a", "b"]))),
            ("text 0, sst2: expected a text, or a tuple of two, found a ndarray", lambda: self.encoder.predict(numpy.array([["a", "b"]]), [task])),
            ("texts: expected a list of texts, found a Table; name one", lambda: self.encoder.predict(Table(), [task])),
            ("expected text in Unicode", lambda: task("a\ud800b")),
            ("found a tuple of a str and a NoneType", lambda: task(("a", None))),
            ("text 2, sst2: expected a text", lambda: self.encoder.predict(["a", "b", None], [task])),
            ("text 1, sst2: empty text", lambda: self.encoder.predict(["a", ""], [task])),
            ("texts: expected a list of texts, found a str", lambda: self.encoder.predict("a", [task])),
            ("tasks: expected a list of tasks, found a Task", lambda: self.encoder.predict(["a"], task)),
            ("tasks: expected what attach gives, found a str", lambda: self.encoder.predict(["a"], ["sst2"])),
            ("top_k: expected a number above 0", lambda: task("a", top_k=0)),
            ("max_length: expected a number above 2", lambda: task("a", max_length=2)),
            ("expected an embedding task, found a classification task", lambda: self.encoder.embed(["a"], task)),
            ("text 1: empty text", lambda: self.encoder.embed(["a", ""], embed)),
            ('expected "raise" or "return"', lambda: self.encoder.predict(["a"], [task], errors="warn")),
        ]:
            with self.assertRaisesRegex(edge_run.Error, said):
                call()
        kept = self.encoder.predict(["a joy", "", None, ["a", ""], "b"], [task], errors="return")
        self.assertEqual([list(answers[0]) == ["error"] for answers in kept], [False, True, True, True, False])
        self.assertEqual(kept[4][0], task("b"))
        vectors = self.encoder.embed(["a", "", "b"], embed, errors="return")
        self.assertEqual(numpy.isnan(vectors).any(axis=1).tolist(), [False, True, False])


if __name__ == "__main__":
    library, EDGE_RUN = sys.argv[1:3]
    package.install(library)
    import edge_run

    unittest.main(argv=[sys.argv[0], "-v"])
