"""Measures what memory edge-export takes for a checkpoint of XLM-RoBERTa's size, in f32 and in int8.

usage: export_memory.py EDGE_EXPORT DIRECTORY [--words N] [--hidden N] [--layers N]
(pip install numpy; Linux only; DIRECTORY needs 6 GB)

Makes a checkpoint of random weights and a Unigram tokenizer of random words in DIRECTORY, exports it with panels, and
verifies the bundle. A figure is the most anonymous memory that the process had: pages of mapped files do not count.
"""

import argparse
import json
import os
import re
import subprocess
import time

import numpy as np

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def tensors(words, hidden, layers):
    """Names and shapes, in the order of the file."""
    yield "embeddings.word_embeddings.weight", (words, hidden)
    yield "embeddings.position_embeddings.weight", (514, hidden)
    yield "embeddings.token_type_embeddings.weight", (1, hidden)
    linear = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    modules = [("pooler.dense", (hidden, hidden)), ("embeddings.LayerNorm", (hidden,))]
    for layer in range(layers):
        shapes = {name: (hidden, hidden) for name in linear}
        shapes |= {"intermediate.dense": (4 * hidden, hidden), "output.dense": (hidden, 4 * hidden)}
        shapes |= {"attention.output.LayerNorm": (hidden,), "output.LayerNorm": (hidden,)}
        modules += [(f"encoder.layer.{layer}.{name}", shape) for name, shape in shapes.items()]
    for name, shape in modules:
        yield name + ".weight", shape
        yield name + ".bias", shape[:1]


def write_weights(path, listed):
    random, header, at = np.random.default_rng(1), {}, 0
    for name, shape in listed:
        end = at + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in listed:
            left = int(np.prod(shape))
            while left:
                count = min(left, 1 << 22)
                file.write((0.05 * random.standard_normal(count, dtype=np.float32)).astype("<f4").tobytes())
                left -= count


def tokenizer(words):
    random, pieces = np.random.default_rng(2), dict.fromkeys(SPECIAL, 0.0)
    while len(pieces) < words:
        letters = "".join(chr(97 + at) for at in random.integers(0, 26, random.integers(2, 9)))
        pieces["\u2581" * int(random.integers(0, 2)) + letters] = -5 - 10 * float(random.random())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = lambda token: {"SpecialToken": {"id": token, "type_id": 0}}
    sequence = lambda name: {"Sequence": {"id": name, "type_id": 0}}
    single = [special("<s>"), sequence("A"), special("</s>")]
    ids = {token: {"id": token, "ids": [SPECIAL.index(token)], "tokens": [token]} for token in ["<s>", "</s>"]}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": at, "content": token, **plain} for at, token in enumerate(SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + [sequence("B"), special("</s>")],
            "special_tokens": ids,
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": list(pieces.items()), "byte_fallback": False},
    }


def make(directory, words, hidden, layers):
    os.makedirs(directory)
    config = {
        "model_type": "xlm-roberta", "vocab_size": words, "hidden_size": hidden, "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers, "num_attention_heads": hidden // 64, "max_position_embeddings": 514,
        "type_vocab_size": 1, "pad_token_id": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    }
    for name, content in [("config.json", config), ("tokenizer.json", tokenizer(words))]:
        with open(os.path.join(directory, name), "w") as file:
            json.dump(content, file, ensure_ascii=False)
    write_weights(os.path.join(directory, "model.safetensors"), list(tensors(words, hidden, layers)))


def peak(command):
    """Most anonymous memory of a command in megabytes, looked at every two milliseconds, and its time in seconds."""
    begun, most = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as status:
                found = re.search(r"RssAnon:\s+(\d+) kB", status.read())
        except FileNotFoundError:
            break
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.002)
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return most * 1024 / 1e6, time.monotonic() - begun


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("edge_export")
    arguments.add_argument("directory")
    arguments.add_argument("--words", type=int, default=250_002)
    arguments.add_argument("--hidden", type=int, default=768)
    arguments.add_argument("--layers", type=int, default=12)
    arguments = arguments.parse_args()
    checkpoint = os.path.join(arguments.directory, "checkpoint")
    if not os.path.exists(checkpoint):
        make(checkpoint, arguments.words, arguments.hidden, arguments.layers)
    for weights in ["f32", "int8"]:
        bundle = os.path.join(arguments.directory, weights)
        for name, command in [
            ("export", [checkpoint, "--weights", weights, "--panels", "beside", "-o", bundle]),
            ("verify", ["verify", bundle]),
        ]:
            megabytes, seconds = peak([arguments.edge_export, *command])
            print(f"{weights:4} {name}: {megabytes:.0f} MB, {seconds:.0f} s", flush=True)


main()
