"""Checks an exported graph with the onnx package and ONNX Runtime.

usage: check_onnxruntime.py BUNDLE VALUES.safetensors ROWS.jsonl [FIXTURE.json]

VALUES are the biases and head of a patch (edge-patch extract), and its low-rank terms if the graph takes them as inputs.
ROWS is what edge-run --logits answered on the two texts below with mean pooling. FIXTURE is what transformers computed
with the same weights (make_encoders.py).
"""

import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file
from tokenizers import Tokenizer

TEXTS = ["the film was good", "why was it bad? not happy!"]
# Two f32 engines that sum in different orders.
BOUND = 1e-4


def session_of(path):
    """Checks a graph, and opens it; gives also the names of inputs that have to be given, and the dimensions of the others."""
    onnx.checker.check_model(path, full_check=True)
    onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True, data_prop=True)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns of every input that has a default, which is what slots are.
    # Weights of eight bits are floats once they are multiplied by their scales; unless told so, ONNX Runtime multiplies
    # them by activations of eight bits.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(path, options)
    required = {i.name for i in session.get_inputs()}
    # What a session lists is what people give: a mask that is not listed is a mask that is forgotten.
    assert required in ({"input_ids", "attention_mask"}, {"input_ids", "attention_mask", "token_type_ids"}), required
    return session, required, {i.name: i.shape for i in session.get_overridable_initializers()}


def tokenizer_of(bundle):
    tokenizer = Tokenizer.from_file(os.path.join(bundle, "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def feeds(encodings, required):
    """One padded batch: the inputs that have to be given."""
    length = max(len(e.ids) for e in encodings)
    padded = lambda lists: np.array([list(l) + [0] * (length - len(l)) for l in lists], dtype=np.int64)
    batch = {
        "input_ids": padded([e.ids for e in encodings]),
        "attention_mask": padded([[1] * len(e.ids) for e in encodings]),
        "token_type_ids": padded([e.type_ids for e in encodings]),
    }
    return {name: batch[name] for name in required}


def main(bundle, values, rows, fixture=None):
    session, required, dims = session_of(os.path.join(bundle, "encoder.onnx"))
    slots = set(dims)
    tokenizer = tokenizer_of(bundle)
    worst_base = 0.0
    if fixture:
        with open(fixture, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        for case in cases:
            encoding = tokenizer.encode(*case["text"])
            assert encoding.ids == case["input_ids"], (encoding.ids, case["input_ids"])
            hidden, *pooled = session.run(None, feeds([encoding], required))
            worst_base = max(worst_base, np.abs(hidden[0] - np.array(case["hidden"])).max())
            if pooled:
                worst_base = max(worst_base, np.abs(pooled[0][0] - np.array(case["pooled"])).max())

    tensors = load_file(values)
    assert slots <= set(tensors), f"slots without values: {slots - set(tensors)}"
    patched = {name: tensors[name] for name in slots}
    # One padded batch, so that the mask matters; edge-run answers each text alone.
    fed = feeds([tokenizer.encode(text) for text in TEXTS], required)
    hidden = session.run(["last_hidden_state"], {**fed, **patched})[0]
    mask = fed["attention_mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    logits = pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    with open(rows, encoding="utf-8") as file:
        ours = np.array([json.loads(line)["logits"] for line in file])
    base = session.run(["last_hidden_state"], fed)[0]
    assert np.abs(base - hidden).max() > 0.01, "the patch changes nothing"
    terms = {name for name in slots if ".lora_" in name}
    if terms:
        biases = {name: patched[name] for name in slots - terms}
        without = session.run(["last_hidden_state"], {**fed, **biases})[0]
        assert np.abs(without - hidden).max() > 0.01, "the low-rank terms change nothing"
        empty = {name: np.zeros([0 if type(d) is str else d for d in dims[name]], np.float32) for name in terms}
        given = session.run(["last_hidden_state"], {**fed, **biases, **empty})[0]
        assert np.array_equal(without, given), "terms of rank 0 are not what terms default to"
    worst_patched = np.abs(ours - logits).max()
    name = os.path.basename(fixture or bundle)[:24]
    print(f"{name:24} base {worst_base:.1e}  patched logits {worst_patched:.1e}")
    assert np.isfinite(hidden).all() and np.isfinite(base).all()
    assert worst_base < BOUND and worst_patched < BOUND


if __name__ == "__main__":
    main(*sys.argv[1:])
