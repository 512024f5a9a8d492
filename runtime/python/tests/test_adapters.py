"""Tests of patches as adapters of ONNX Runtime, over a small encoder of random weights.

usage: test_adapters.py MODULE EDGE_EXPORT
(pip install numpy onnxruntime safetensors tokenizers; MODULE is the library that cargo built, target/debug/libedge_run_python.so;
EDGE_EXPORT is target/debug/edge-export)
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy
import onnxruntime
import package
from tokenizers import Tokenizer

LIBRARY, EDGE_EXPORT = (Path(each).resolve() for each in sys.argv[1:3])
package.install(LIBRARY)
import edge_run
from edge_run.onnxruntime import from_adapter, to_adapter

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests" / "peers"))
import random_encoder

TEXTS = [f"{word} {good} it was" for word in ("film", "the", "very", "cafe") for good in ("good", "bad")]
LABELS = ["no", "yes"] * 4
FIELDS = {"pooling": "mean", "max_length": 40}
# Two f32 engines that sum in different orders, as in tests/reference/check_onnxruntime.py.
BOUND = 1e-4


class Adapters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        random_encoder.main("small-bert", "checkpoint")
        for name, flags in [("terms", ["--low-rank-inputs"]), ("biases", [])]:
            subprocess.run([EDGE_EXPORT, "checkpoint", "-o", name, *flags], check=True, stdout=subprocess.DEVNULL)

    def trained(self, slots):
        options = {"slots": slots, "epochs": 20, "learning_rates": [3e-2], "task": FIELDS, "progress": False}
        return edge_run.train("terms", TEXTS, LABELS, "mood.bias", **options)["path"]

    def due(self, patch):
        encoder = edge_run.Encoder("terms")
        return numpy.float32([answer["logits"] for [answer] in encoder.predict(TEXTS, [encoder.attach(patch)])])

    def from_onnx_runtime(self, bundle, head, adapter=None, options=None):
        options = options or onnxruntime.RunOptions()
        if adapter is not None:
            loaded = onnxruntime.LoraAdapter()
            loaded.Load(adapter)
            options.add_active_adapter(loaded)
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(f"{bundle}/encoder.onnx", quiet)
        tokenizer = Tokenizer.from_file(f"{bundle}/tokenizer.json")
        tokenizer.no_padding()
        rows = []
        for text in TEXTS:
            encoding = tokenizer.encode(text)
            ids = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
            fed = {one.name: numpy.int64([ids[one.name]]) for one in session.get_inputs()}
            [hidden] = session.run(["last_hidden_state"], fed, options)
            rows.append(head["classifier.weight"] @ hidden[0].mean(0) + head["classifier.bias"])
        return numpy.float32(rows)

    def test_onnx_runtime_answers_the_same_and_the_patch_comes_back(self):
        for slots, bundle in [("all,lora:all@2", "terms"), ("all", "biases"), ("lora:q+v@1", "terms")]:
            patch = self.trained(slots)
            head = to_adapter(patch, bundle, "mood.onnx_adapter")
            self.assertEqual({*head}, {"classifier.weight", "classifier.bias"})
            due, found = self.due(patch), self.from_onnx_runtime(bundle, head, "mood.onnx_adapter")
            difference = float(numpy.abs(found - due).max())
            print(f"{slots}: largest difference of logits {difference:.1e}", file=sys.stderr)
            self.assertLess(difference, BOUND)
            # It says nothing if the encoder alone answers so.
            self.assertGreater(numpy.abs(self.from_onnx_runtime(bundle, head) - due).max(), 10 * BOUND)
            again = from_adapter("mood.onnx_adapter", head, bundle, "again.bias", task={"labels": ["no", "yes"], **FIELDS})
            self.assertTrue(numpy.array_equal(self.due(again["path"]), due), slots)
            os.remove("again.bias")

    def test_the_example_of_the_readme(self):
        due = self.due(self.trained("all"))
        os.symlink("biases", "bert")
        readme = (ROOT / "runtime/python/README.md").read_text(encoding="utf-8")
        [code] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "edge_run.onnxruntime" in code]
        names = {}
        exec(code, names)
        found = self.from_onnx_runtime("bert", names["head"], options=names["options"])
        self.assertLess(numpy.abs(found - due).max(), BOUND)
        self.assertTrue(numpy.array_equal(self.due("again.bias"), due))
        os.remove("again.bias")

    def test_what_does_not_fit_is_refused(self):
        patch, task = self.trained("all"), {"labels": ["no", "yes"], **FIELDS}
        head = to_adapter(patch, "biases", "mood.onnx_adapter")
        strangers = {"classifier.weight": head["classifier.weight"], "gate": head["classifier.bias"]}
        for said, given, labels in [
            ("tensor gate: expected a bias of the encoder", {**head, **strangers}, task),
            ("weight of classifier", {"classifier.bias": head["classifier.bias"]}, task),
            ("expected 3 rows", head, {**task, "labels": ["a", "b", "c"]}),
        ]:
            with self.assertRaisesRegex(edge_run.Error, said):
                from_adapter("mood.onnx_adapter", given, "biases", "x.bias", task=labels)
        with self.assertRaises(edge_run.Error):
            to_adapter("nowhere.bias", "biases", "x.onnx_adapter")
        self.assertFalse({"x.bias", "x.onnx_adapter"} & {*os.listdir(".")})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        unittest.main(argv=[sys.argv[0], "-v"])
