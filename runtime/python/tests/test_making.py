"""Tests of what the Python module makes, patches and adapters, over the demo's encoder.

usage: test_making.py MODULE EDGE_PATCH
(pip install numpy tqdm; MODULE is the library that cargo built, target/debug/libedge_run_python.so; EDGE_PATCH is
target/debug/edge-patch; the demo's encoder is in the store)

What is made is compared with what edge-patch makes, byte for byte.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import warnings
from pathlib import Path

import numpy
import package

ROOT = Path(__file__).parents[3]
SST2 = ROOT / "patches" / "library" / "sst2.bias"


def moods(count, first=0):
    """Texts whose words decide the label."""
    words = ["film", "very", "the", "was", "not", "it", "cafe"]
    texts = [f"{words[at * 3 % 7]} {'good' if at % 2 else 'bad'} {words[at * 5 % 6]}" for at in range(first, first + count)]
    return texts, [at % 2 for at in range(first, first + count)]


TEXTS, LABELS = moods(48)
DEV = moods(16, first=500)


class Making(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.encoder = edge_run.Encoder.of(SST2)
        stored = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-run/bundles"
        cls.bundle = stored / cls.encoder.digest

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.home = Path(directory.name)

    def command(self, *arguments):
        """Runs edge-patch there, and gives what it says on standard error."""
        run = subprocess.run([EDGE_PATCH, *map(str, arguments)], cwd=self.home, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stderr

    def trained_by_command(self, task, sets, *options):
        """The bytes of the patch, and what is said on standard error."""
        for name, (texts, labels) in sets.items():
            rows = [
                json.dumps({**(dict(zip(["sentence1", "sentence2"], text)) if isinstance(text, tuple) else {"text": text}),
                            "label": label})
                for text, label in zip(texts, labels)
            ]
            (self.home / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
        (self.home / "task.json").write_text(json.dumps(task))
        said = self.command("train", "--encoder", self.bundle, "--task", "task.json", "--train", "train.jsonl",
                            "--dev", "dev.jsonl", "-o", "theirs.bias", *options)
        return (self.home / "theirs.bias").read_bytes(), said

    def trained(self, texts, labels, **options):
        found = edge_run.train(self.encoder, texts, labels, self.home / "ours.bias", **{"progress": False, **options})
        self.assertEqual(found["path"], self.home / "ours.bias")
        data = found["path"].read_bytes()
        self.assertEqual(found["bytes"], len(data))
        self.assertFalse({"ours.bias.training", "ours.bias.lock"} & {*os.listdir(self.home)})
        return data, found

    def test_a_patch_is_that_of_the_command(self):
        names = [["bad", "good"][label] for label in LABELS]
        pairs, numbers = list(zip(TEXTS, TEXTS[1:])), [0.1 * (at % 7) for at in range(47)]
        for task, sets, options, flags in [
            ({"labels": ["bad", "good"]}, ((TEXTS, names), (DEV[0], [["bad", "good"][label] for label in DEV[1]])), {}, []),
            (
                {"labels": ["0", "1"], "pooling": "mean", "max_length": 16},
                ((TEXTS, LABELS), DEV),
                {"learning_rates": [1e-3, 1e-2], "seeds": [3, 4], "epochs": 2, "metric": "F1", "class_weights": "balanced"},
                ["--lr", "1e-3,1e-2", "--seeds", 2, "--seed", 3, "--epochs", 2, "--metric", "F1", "--class-weights", "balanced"],
            ),
            (
                {"kind": "regression", "pooling": "mean", "inputs": 2},
                ((pairs[:32], numbers[:32]), (pairs[32:], numbers[32:])),
                {"slots": "bq+bm2", "batch": 8, "patience": 1},
                ["--slots", "bq+bm2", "--batch", 8, "--patience", 1],
            ),
        ]:
            fields = {field: task[field] for field in ("pooling", "max_length") if field in task}
            ours, found = self.trained(*sets[0], dev=sets[1], task=fields, **options)
            whole = {"name": "ours", "kind": "classification", **task}
            theirs, _ = self.trained_by_command(whole, dict(zip(["train", "dev"], sets)), *flags)
            self.assertTrue(ours == theirs, f"{task}: another patch than edge-patch's")
            attached = self.encoder.attach(found["path"])
            self.assertEqual((attached.name, attached.kind), ("ours", whole["kind"]))
            if whole["kind"] == "classification":
                answers = self.encoder.predict(sets[1][0], [attached])
                right = [answer["label"] == str(label) for [answer], label in zip(answers, sets[1][1])]
                if found["metric"] == "accuracy":
                    self.assertEqual(found["score"], sum(right) / len(right))
                self.assertGreater(sum(right), 0.9 * len(right))

    def test_texts_and_labels_may_be_columns(self):
        options = {"epochs": 1, "dev": (numpy.array(DEV[0]), numpy.array(DEV[1]))}
        due, _ = self.trained(TEXTS, LABELS, **options)
        for texts, labels in [
            ((text for text in TEXTS), iter(LABELS)),
            (numpy.array(TEXTS, dtype=object), numpy.array(LABELS, dtype=numpy.int8)),
            (numpy.array(TEXTS), numpy.array(LABELS, dtype=bool)),
            (TEXTS, [str(label) for label in LABELS]),
        ]:
            self.assertTrue(self.trained(texts, labels, **options)[0] == due, type(labels))
        numbers = numpy.array([0.1 * label for label in LABELS], dtype=numpy.float32)
        due, found = self.trained(TEXTS, list(numbers.astype(float)), epochs=1)
        self.assertEqual(found["metric"], "Spearman")
        self.assertTrue(self.trained(TEXTS, numbers, epochs=1)[0] == due, "float32")
        # A bundle's directory is an encoder.
        found = edge_run.train(self.bundle, TEXTS, numbers, self.home / "ours.bias", epochs=1, progress=False)
        self.assertTrue(found["path"].read_bytes() == due, "of a directory")

    def test_answers_are_dictionaries(self):
        texts = [(f"when {at}?", "so " * (at % 3) + f"it was {1890 + at} or so") for at in range(24)]
        answers = [{"answer": str(1890 + at), "answer_start": 3 * (at % 3) + 7} for at in range(24)]
        options = {"kind": "span", "slots": "bm2", "epochs": 1, "dev": (texts[16:], answers[16:])}
        ours, found = self.trained(texts[:16], answers[:16], **options)
        for name, part in [("train", slice(16)), ("dev", slice(16, None))]:
            rows = [{"question": q, "context": c, **a} for (q, c), a in zip(texts[part], answers[part])]
            (self.home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.home / "task.json").write_text('{"name": "ours", "kind": "span", "inputs": 2}')
        self.command("train", "--encoder", self.bundle, "--task", "task.json", "--train", "train.jsonl", "--dev", "dev.jsonl",
                     "--slots", "bm2", "--epochs", 1, "-o", "theirs.bias")
        self.assertTrue(ours == (self.home / "theirs.bias").read_bytes(), "another patch than edge-patch's")
        squad = [{"text": [answer["answer"]], "answer_start": [answer["answer_start"]]} for answer in answers]
        self.assertTrue(self.trained(texts[:16], squad[:16], **{**options, "dev": (texts[16:], squad[16:])})[0] == ours)
        self.assertEqual(self.encoder.attach(found["path"])(texts[0])["spans"][0].keys(), {"text", "start", "end", "score"})
        with self.assertRaisesRegex(edge_run.Error, 'text 0: expected an answer as .*, found a dict with start'):
            edge_run.train(self.encoder, texts[:1], [{"start": 1}], self.home / "x.bias", kind="span", progress=False)

    def test_labels_of_other_kinds_are_lists(self):
        words = [text.split() for text in TEXTS]
        tags = [["ADJ" if word in ("good", "bad") else "OTHER" for word in text] for text in words]
        self.trained(words, tags, kind="tagging", epochs=1)
        self.assertEqual(self.encoder.attach(self.home / "ours.bias").labels, ["ADJ", "OTHER"])
        several = [["x"] * (at % 2) + ["y"] * (at % 3 == 0) for at in range(48)]
        self.trained(TEXTS, several, kind="multi-label", epochs=1)
        self.assertEqual(self.encoder.attach(self.home / "ours.bias").labels, ["x", "y"])
        similar = list(zip(TEXTS, TEXTS[1:]))
        self.trained(similar, [0.5 * (at % 3) for at in range(47)], kind="embedding", task={"pooling": "mean"}, epochs=1)
        self.assertEqual(self.encoder.embed(["a"], self.encoder.attach(self.home / "ours.bias")).shape, (1, 384))

    def test_progress_is_that_of_the_command(self):
        task = {"name": "ours", "kind": "classification", "labels": ["0", "1"]}
        _, said = self.trained_by_command(task, {"train": (TEXTS, LABELS), "dev": DEV}, "--log", "log.jsonl")
        due = [json.loads(line) for line in (self.home / "log.jsonl").read_text().splitlines()]
        events = []
        self.trained(TEXTS, LABELS, dev=DEV, progress=events.append)
        self.assertEqual(events, due)
        for progress, due in [(None, said), (True, said), (False, "")]:
            with contextlib.redirect_stderr(io.StringIO()) as stderr:
                self.trained(TEXTS, LABELS, dev=DEV, progress=progress)
            self.assertEqual(stderr.getvalue(), due)
        self.assertEqual(len(said.splitlines()), 6)

    def test_a_bar_has_all_steps_also_of_a_training_that_goes_on(self):
        options, shown = {"dev": DEV, "epochs": 2, "seeds": [1, 2]}, io.StringIO()

        class Stopped(Bar):
            def __call__(self, event):
                super().__call__(event)
                if event["event"] == "step" and (self.bar.n, event["step"]) == (8, 2):
                    raise LookupError("enough")

        with self.assertRaises(LookupError):
            self.trained(TEXTS, LABELS, progress=Stopped(file=io.StringIO()), **options)
        self.trained(TEXTS, LABELS, progress=Bar(file=shown, mininterval=0), **options)
        # Two runs of three steps twice; the first run and two steps of the second are done.
        bars = [line for line in shown.getvalue().replace("\n", "\r").split("\r") if "/12 [" in line]
        self.assertIn(" 8/12 [00:00<", bars[0])
        self.assertIn(" 12/12 [", bars[-1])
        for part in ("rate 0.003, seed 2, epoch 2: training loss ", "dev accuracy ", "step/s", "loss="):
            self.assertIn(part, shown.getvalue())

    def test_what_is_raised_stops_a_training_that_goes_on_to_the_same_patch(self):
        options = {"dev": DEV, "epochs": 4}
        due, _ = self.trained(TEXTS, LABELS, **options)

        def stop(event):
            if event["event"] == "step" and event["step"] == 7:
                raise LookupError("enough")

        def interrupt(event):
            if event["event"] == "step" and event["step"] == 9:
                os.kill(os.getpid(), signal.SIGINT)

        (self.home / "ours.bias").unlink()
        for error, progress in [(LookupError, stop), (KeyboardInterrupt, interrupt)]:
            with self.assertRaises(error):
                edge_run.train(self.encoder, TEXTS, LABELS, self.home / "ours.bias", progress=progress, **options)
            self.assertEqual(os.listdir(self.home), ["ours.bias.training"])
        events = []
        found, _ = self.trained(TEXTS, LABELS, progress=events.append, **options)
        self.assertTrue(found == due, "another patch")
        self.assertEqual(events[0]["step"], 9)
        self.assertEqual(os.listdir(self.home), ["ours.bias"])

    def test_a_state_that_cannot_be_kept_is_the_cause_of_what_is_raised(self):
        def stop(event):
            if event["event"] == "step":
                # Nothing can be written there.
                (self.home / "ours.bias.training").mkdir()
                raise LookupError("enough")

        with self.assertRaisesRegex(LookupError, "enough") as caught:
            edge_run.train(self.encoder, TEXTS, LABELS, self.home / "ours.bias", progress=stop)
        self.assertIsInstance(caught.exception.__cause__, edge_run.Error)
        self.assertIn("ours.bias.training", str(caught.exception.__cause__))

    def test_an_interrupt_ends_a_training_in_which_no_python_runs(self):
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            edge_run.train(self.encoder, TEXTS, LABELS, self.home / "ours.bias", epochs=100_000, progress=False)
        timer.join()
        self.assertFalse({"ours.bias", "ours.bias.lock"} & {*os.listdir(self.home)})

    def test_other_threads_run_meanwhile(self):
        steps, failures, done = [], [], threading.Event()

        def work():
            try:
                self.trained(TEXTS, LABELS, progress=steps.append)
            except BaseException as failure:
                failures.append(failure)
            finally:
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        wakes = 0
        while not done.is_set():
            time.sleep(0.001)
            wakes += 1
        thread.join()
        for failure in failures:
            raise failure
        self.assertTrue(steps, "no step")
        # A step takes many milliseconds. If it held the lock, this thread would wake once for an event at most.
        self.assertGreater(wakes, 3 * len(steps))

    def test_adapters_are_those_of_the_command(self):
        self.trained(TEXTS, LABELS, dev=DEV, epochs=1, slots="all,lora:q+v@2", task={"pooling": "pooler"})
        edge_run.to_peft(self.home / "ours.bias", self.encoder, self.home / "ours")
        self.command("extract", "ours.bias", "--encoder", self.bundle, "--format", "peft", "-o", "theirs")
        files = ["adapter_config.json", "adapter_model.safetensors"]
        for name in files:
            self.assertTrue((self.home / "ours" / name).read_bytes() == (self.home / "theirs" / name).read_bytes(), name)

        fields = {"labels": ["no", "yes"], "pooling": "pooler"}
        (self.home / "task.json").write_text(json.dumps({"name": "imported", "kind": "classification", **fields}))
        self.command("import", "--encoder", self.bundle, "--from", "ours", "--task", "task.json", "-o", "theirs.bias")
        due = (self.home / "theirs.bias").read_bytes()
        ours = self.home / "ours"

        class PeftModel:
            """What a model of PEFT is asked for."""

            def save_pretrained(self, directory):
                shutil.copytree(ours, directory, dirs_exist_ok=True)

        for adapter in (ours, str(ours), PeftModel()):
            found = edge_run.from_peft(adapter, self.bundle, self.home / "imported.bias", task=fields)
            self.assertTrue(found["path"].read_bytes() == due, adapter)
            self.assertEqual((found["bytes"], found["base_model"]), (len(due), self.encoder.name))
        logits = [
            [answer["logits"] for [answer] in self.encoder.predict(TEXTS, [self.encoder.attach(self.home / name)])]
            for name in ("ours.bias", "imported.bias")
        ]
        # The adapter has the factors in f32, as the patch has.
        self.assertEqual(logits[0], logits[1])
        # What is raised while a model is saved is raised here.
        with self.assertRaisesRegex(edge_run.Error, "adapter_model"):
            (ours / files[1]).unlink()
            edge_run.from_peft(PeftModel(), self.bundle, self.home / "imported.bias", task=fields)

    def test_refusals_say_what_is_wrong(self):
        def train(texts=TEXTS, labels=LABELS, output=None, **options):
            return lambda: edge_run.train(self.encoder, texts, labels, output or self.home / "x.bias", progress=False, **options)

        for said, call in [
            ("labels: expected one for each of 48 texts, found 3", train(labels=[0, 1, 0])),
            ("texts: expected a list of texts, found a str", train(texts="a")),
            ("text 1: expected a text, or a tuple of two, found a int", train(["a", 3], [0, 1])),
            ("text 1: expected a label, or a list of labels, found a object", train(["a", "b"], [0, object()])),
            ("texts: text 1: expected a label, found none", train(["a", "b", "c"], [0, None, 1])),
            ("texts: text 1: empty text", train(["a", " "], [0, 1])),
            ("texts: text 2: expected 1 texts, found 2", train(["a", "b", ("a", "b")], [0, 1, 0])),
            ("texts: text 0: expected one of no, yes, found \"maybe\"", train(["a", "b"], ["maybe", "no"], task={"labels": ["no", "yes"]})),
            ("dev: text 0: expected one of 0, 1, found \"2\"", train(dev=(["a"], [2]))),
            ("dev: expected a pair of texts and labels, found 3 values", train(dev=(1, 2, 3))),
            ("dev: expected labelled texts that choose one of 2 runs, found none", train(seeds=[1, 2])),
            ("labels: expected at least 2, found 1", train(labels=[1] * 48)),
            ("expected at least two that differ", train(labels=[0.5] * 48)),
            ("texts: text 1: expected a finite number, found NaN", train(["a", "b", "c"], [0.5, float("nan"), 1.0])),
            ("dev: text 0: expected a finite number, found inf", train(labels=[0.5, 1.0] * 24, dev=(["a"], numpy.array([numpy.inf])))),
            # A table's place of a missing label.
            ("texts: text 1: expected a label, found none", train(["a", "b", "c"], ["no", float("nan"), "yes"])),
            ("texts: text 1: expected a label, found none", train(["a", "b", "c"], [0, numpy.float32("nan"), 1])),
            ("texts: text 0: expected a label, or a list of labels, found a list", train(
                ["a", "b"], [["x", float("nan")], ["y"]], kind="multi-label")),
            # A row of one number is a list.
            ("texts: text 0: expected a label, found something else", train(["a", "b"], numpy.array([[0.5], [1.0]]))),
            ("texts: text 0: expected a label, found something else", train(["a", "b"], numpy.array([[0], [1]]))),
            ("texts: expected at least one, found none", train([], [])),
            ("dev: expected at least one, found none", train(dev=([], []))),
            ("kind: expected classification", train(kind="poetry")),
            ("unknown field `colour`", train(task={"colour": 1})),
            ("metric.*BLEU", train(metric="BLEU")),
            ("--slots", train(slots="bx")),
            ("learning_rates: expected numbers in .0, 1., found 3", train(learning_rates=[3.0])),
            ("epochs: expected at least one", train(epochs=0)),
            ("texts per step: expected at least one", train(batch=0)),
            ("class_weights: expected none or balanced", train(class_weights="rare")),
            ("labels: expected integers, .* or floats, .* found both; name one by kind=", lambda: edge_run.train(
                self.encoder, ["a", "b", "c"], [0, 0.5, 1], self.home / "x.bias", progress=False)),
            ("text 0: expected a text, or a tuple of two, found a list", lambda: edge_run.train(
                self.encoder, [["a", "b"], ["c", "d"]], [0, 1], self.home / "x.bias", progress=False)),
            ("progress: expected a function or a bool, found a str", lambda: edge_run.train(
                self.encoder, TEXTS, LABELS, self.home / "x.bias", progress="bar")),
            ("nowhere", train(output=self.home / "nowhere" / "x.bias")),
            ("nowhere", lambda: edge_run.train("nowhere", TEXTS, LABELS, self.home / "x.bias")),
            ("nowhere", lambda: edge_run.from_peft("nowhere", self.encoder, self.home / "x.bias", task={"labels": ["a", "b"]})),
            ("labels: expected a list of labels", lambda: edge_run.from_peft("nowhere", self.encoder, "x.bias", task={})),
            ("lora|low-rank", lambda: edge_run.to_peft(SST2, self.encoder, self.home / "x")),
        ]:
            with self.assertRaisesRegex(edge_run.Error, said):
                call()
            self.assertEqual(os.listdir(self.home), [], said)
        with warnings.catch_warnings(record=True) as caught:
            train(task={"labels": ["a", "b", "never"]}, epochs=1)()
        self.assertEqual([str(one.message) for one in caught], ["labels of the task that no text has: never"])


if __name__ == "__main__":
    library, EDGE_PATCH = sys.argv[1:3]
    EDGE_PATCH = os.path.abspath(EDGE_PATCH)
    package.install(library)
    import edge_run
    from edge_run.tqdm import Bar

    # A shell that starts a program in the background has it ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    unittest.main(argv=[sys.argv[0], "-v"])
