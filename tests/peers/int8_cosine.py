#!/usr/bin/env python3
"""Cosines between the hidden states of an encoder in f32 and in int8.

usage: int8_cosine.py F32_BUNDLE INT8_BUNDLE [--bin DIR]

A head that is the identity gives the hidden state of a text's first token as its logits. The texts are the beginnings of some
sentences, of words that the small tokenizers of random_encoder.py have. It needs numpy and safetensors.
"""

import argparse
import json
import os
import subprocess
import tempfile

import numpy as np
from safetensors.numpy import save_file

SENTENCES = [
    "the film was good",
    "why was the film not good ? one , it was very bad , and two , the cafe was not happy",
    "unhappy , very unhappily bad",
    "the happy cafe was a good cafe , the film was a bad film ! it was two , three , one",
]
TEXTS = [" ".join(words[:count]) for words in map(str.split, SENTENCES) for count in range(1, len(words) + 1)]


def hidden_states(bundle, programs):
    """A row for each text."""
    with open(os.path.join(bundle, "bundle.json"), encoding="utf-8") as file:
        width = json.load(file)["config"]["hidden"]
    program = lambda name: os.path.join(programs, name)
    with tempfile.TemporaryDirectory() as directory:
        place = lambda name: os.path.join(directory, name)
        save_file({"classifier.weight": np.eye(width, dtype=np.float32), "classifier.bias": np.zeros(width, np.float32)}, place("head.safetensors"))
        labels = [str(at) for at in range(width)]
        for name, text in [
            ("task.json", json.dumps({"name": "hidden", "kind": "classification", "labels": labels, "pooling": "cls"})),
            ("texts.txt", "".join(text + "\n" for text in TEXTS)),
        ]:
            with open(place(name), "w", encoding="utf-8") as file:
                file.write(text)
        make = [program("edge-patch"), "import", "--encoder", bundle, "--from", place("head.safetensors"), "--task", place("task.json")]
        subprocess.run([*make, "-o", place("hidden.bias")], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        run = [program("edge-run"), "--bundle", bundle, "-p", place("hidden.bias"), "--logits", "-o", "jsonl", place("texts.txt")]
        answers = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return np.array([json.loads(line)["logits"] for line in answers.splitlines()])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("f32_bundle")
    parser.add_argument("int8_bundle")
    parser.add_argument("--bin", default="target/release", help="the directory of edge-patch and edge-run")
    arguments = parser.parse_args()
    exact, quantized = (hidden_states(bundle, arguments.bin) for bundle in (arguments.f32_bundle, arguments.int8_bundle))
    products = (exact * quantized).sum(axis=1)
    cosines = products / np.linalg.norm(exact, axis=1) / np.linalg.norm(quantized, axis=1)
    print(f"{len(cosines)} hidden states of {exact.shape[1]} values: cosine {cosines.mean():.5f}, the lowest {cosines.min():.5f}")


if __name__ == "__main__":
    main()
