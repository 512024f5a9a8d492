"""Checks a training graph with the onnx package and ONNX Runtime.

usage: check_training.py BUNDLE [FIXTURE.json]

The loss of two texts has to change along its gradient as the gradient says. With FIXTURE (make_encoders.py), loss and
gradients have to be PyTorch's, for every kind of task that gradients.json has (make_gradients.py).
"""

import json
import os
import sys

import numpy as np
from check_onnxruntime import TEXTS, feeds, session_of, tokenizer_of
from numbers_of import numbers

# f32 against f64, relative to a gradient's norm; to the largest one, if it is zero in mathematics, as that of a bias that
# shifts all tokens alike is for spans.
BOUND = 1e-4
# Relative; the loss is f32, and bends along the way.
STEP, SLOPE_BOUND = 3e-3, 1e-2
# What make_gradients.py says is right of the fixture's texts.
LABELS, VALUES, ANSWER = [0, 1, 2, 0], [0.5, -1.0, 2.0, 0.0], "was happy"


def value(name, shape):
    return np.array(numbers(name, shape)).astype(np.float32).reshape(shape)


def first_tokens(text, offsets):
    """The first token of each word."""
    position, firsts = 0, []
    for word in text.split():
        start = text.index(word, position)
        position = start + len(word)
        covers = [i for i, (a, b) in enumerate(offsets) if a < position and b > start and b > a]
        firsts.append(next(i for i in covers if i not in firsts))
    return firsts


def batch(kind, texts, encodings, inputs, hidden):
    """Inputs of the graph for texts: FORMAT.md says what each of them means."""
    fed = feeds(encodings, inputs)
    count, longest = fed["input_ids"].shape
    firsts = []
    if kind == "tagging":
        firsts = [first_tokens(text[0], encoding.offsets) for text, encoding in zip(texts, encodings)]
    rows = {"tagging": max(map(len, firsts), default=1), "span": longest}.get(kind, 1)
    outputs = {"cls": 1, "span": 2}.get(kind, 3)
    reads = np.zeros((count, rows, longest), np.float32)
    right = np.zeros((count, rows, outputs), np.float32)
    for at, (text, encoding) in enumerate(zip(texts, encodings)):
        if kind == "mean":
            reads[at, 0, : len(encoding.ids)] = 1 / len(encoding.ids)
        elif kind == "cls":
            reads[at, 0, 0] = 1
        elif kind == "tagging":
            for word, token in enumerate(firsts[at]):
                reads[at, word, token] = 1
                right[at, word, word % 3] = 1 / (count * len(firsts[at]))
        elif kind == "span":
            second = [i for i, part in enumerate(encoding.sequence_ids) if part == 1]
            reads[at, second, second] = 1
            start = text[1].index(ANSWER)
            covers = [i for i in second if encoding.offsets[i][0] < start + len(ANSWER) and encoding.offsets[i][1] > start]
            right[at, covers[0], 0] = right[at, covers[-1], 1] = 1 / (2 * count)
        if kind in ("mean", "pooler"):
            right[at, 0, LABELS[at]] = 1 / count
    fed["reads"] = reads
    if kind == "pooler":
        fed["reads_pooler"] = np.ones((count, 1, 1), np.float32)
    if kind == "cls":
        fed["values"] = np.array(VALUES[:count], np.float32).reshape(count, 1, 1)
        fed["value_shares"] = np.full((count, 1, 1), 1 / count, np.float32)
    else:
        fed["spans" if kind == "span" else "labels"] = right
    fed["head.weight"], fed["head.bias"] = value("head weight", [outputs, hidden]), value("head bias", [outputs])
    return fed


def against_pytorch(kind, found, expected):
    due = expected[""][0]
    assert abs(found["loss"] - due) < 1e-5 * due, (kind, found["loss"], due)
    worst, gradients = 0.0, {name.removeprefix("gradient."): d for name, d in found.items() if name.startswith("gradient.")}
    assert gradients.keys() == {name.replace("head ", "head.") for name in expected if name}, kind
    largest = max(due[0] for name, due in expected.items() if name)
    for name, (norm, *products) in ((name, due) for name, due in expected.items() if name):
        scale = norm if norm > 1e-12 * largest else largest
        gradient = gradients[name.replace("head ", "head.")].astype(np.float64).ravel()
        for probe, product in enumerate(products):
            vector = value(f"probe {probe} {name}", [gradient.size, 1]).astype(np.float64).ravel()
            error = abs(gradient @ vector - product) / np.linalg.norm(vector)
            assert error < BOUND * scale, (kind, name, gradient @ vector, product)
            worst = max(worst, error / scale)
    return worst


def main(bundle, fixture=None):
    session, inputs = session_of(os.path.join(bundle, "train.onnx"))
    names = [output.name for output in session.get_outputs()]
    run = lambda fed: dict(zip(names, session.run(None, fed)))
    tokenizer = tokenizer_of(bundle)
    with open(os.path.join(bundle, "bundle.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    hidden = manifest["config"]["hidden"]
    said = []
    if fixture:
        with open(fixture, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        with open(os.path.join(os.path.dirname(fixture), "..", "gradients.json"), encoding="utf-8") as file:
            kinds = json.load(file)[os.path.basename(fixture).removesuffix(".json")]
        for kind, expected in kinds.items():
            texts = [case["text"] for case in cases if len(case["text"]) in {"tagging": [1], "span": [2]}.get(kind, [1, 2])]
            encodings = [tokenizer.encode(*text) for text in texts]
            worst = against_pytorch(kind, run(batch(kind, texts, encodings, inputs, hidden)), expected)
            said.append(f"{kind} {worst:.1e}")

    texts = [[text] for text in TEXTS]
    fed = batch("mean", texts, [tokenizer.encode(text) for text in TEXTS], inputs, hidden)
    with open(os.path.join(bundle, "base.bias"), "rb") as file:
        base = file.read()
    slots = {slot["name"]: np.frombuffer(base, "<f4", slot["len"], slot["offset"]) for slot in manifest["slots"]}
    found = run(fed)
    gradients = {name: found[f"gradient.{name}"] for name in slots if f"gradient.{name}" in found}
    norm = np.sqrt(sum((d.astype(np.float64) ** 2).sum() for d in gradients.values()))
    moved = lambda by: {name: slots[name] + np.float32(by / norm) * d for name, d in gradients.items()}
    slope = sum(sign * float(run({**fed, **moved(sign * STEP)})["loss"]) for sign in (1, -1)) / (2 * STEP)
    said.append(f"slope over norm {slope / norm:.4f}")
    print(f"{os.path.basename(fixture or bundle)[:24]:24} training: {', '.join(said)}")
    assert abs(slope / norm - 1) < SLOPE_BOUND


if __name__ == "__main__":
    main(*sys.argv[1:])
