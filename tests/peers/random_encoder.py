"""Writes a checkpoint of random weights at the published shape of an encoder, to measure what no fixture is large enough for.

usage: random_encoder.py SHAPE DIR

Names of tensors, tokenizer and settings are those of the small encoder of that family in fixtures/encoders; only sizes differ.
Weights are normal with deviation 0.02, as encoders are initialised; gains are near 1. It needs numpy and safetensors.
"""

import json
import os
import re
import sys

import numpy as np
from safetensors.numpy import save_file

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "encoders")
# The fixture, and what its config.json says otherwise.
SHAPES = {
    # That of the fixture itself, where the encoder's time should not count.
    "small-bert": ("bert", {}),
    "all-mpnet-base-v2": ("mpnet", dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=30527, max_position_embeddings=514)),
    "modernbert-base": ("modernbert", dict(hidden_size=768, num_hidden_layers=22, num_attention_heads=12, intermediate_size=1152, vocab_size=50368, max_position_embeddings=8192, local_attention=128)),
    "ettin-17m": ("modernbert", dict(hidden_size=256, num_hidden_layers=7, num_attention_heads=4, intermediate_size=384, vocab_size=50368, max_position_embeddings=7999, local_attention=128, local_rope_theta=160000.0)),
    "albert-base-v2": ("albert", dict(hidden_size=768, embedding_size=128, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=30000, max_position_embeddings=512)),
    "bert-base": ("bert", dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=30522, max_position_embeddings=512)),
    "bert-large": ("bert", dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=30522, max_position_embeddings=512)),
    "roberta-base": ("roberta", dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=50265, max_position_embeddings=514)),
    "deberta-v3-small": ("deberta-v3", dict(hidden_size=768, num_hidden_layers=6, num_attention_heads=12, intermediate_size=3072, vocab_size=128100, max_position_embeddings=512, position_buckets=256)),
    "multilingual-e5-small": ("xlm-roberta", dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536, vocab_size=250037, max_position_embeddings=514)),
}


def main(shape, directory):
    name, sizes = SHAPES[shape]
    with open(os.path.join(FIXTURES, name + ".json"), encoding="utf-8") as file:
        fixture = json.load(file)
    small = fixture["config"]
    config = {**small, **sizes}
    # What a dimension of the small encoder is of, and how many times that: 96 is three times the hidden width.
    fields = ["vocab_size", "hidden_size", "embedding_size", "intermediate_size"]
    grown = {times * small[f]: times * config[f] for times in (3, 2, 1) for f in reversed(fields) if f in small}
    random = np.random.default_rng(1)

    def values(tensor, dims):
        if tensor.endswith(".bias"):
            return 0.02 * random.standard_normal(dims, dtype=np.float32)
        if len(dims) == 1:
            return 1 + 0.02 * random.standard_normal(dims, dtype=np.float32)
        return 0.02 * random.standard_normal(dims, dtype=np.float32)

    tensors = {}
    for tensor, dims in fixture["tensors"].items():
        if "relative_attention_bias" in tensor:
            dims = [32, config["num_attention_heads"]]
        elif "position_embeddings" in tensor:
            # A small encoder's inner width may be as many.
            dims = [config["max_position_embeddings"], grown.get(dims[1], dims[1])]
        elif "rel_embeddings" in tensor:
            dims = [2 * config["position_buckets"], config["hidden_size"]]
        else:
            dims = [grown.get(d, d) for d in dims]
        layer = re.match(r"(.*layers?\.)(\d+)(\..*)", tensor)
        if layer is None or layer[2] == "0":
            tensors[tensor] = values(tensor, dims)
        elif layer[2] == "1":
            # Every layer after the first is like the second.
            for at in range(1, config["num_hidden_layers"]):
                tensors[f"{layer[1]}{at}{layer[3]}"] = values(tensor, dims)
    os.makedirs(directory, exist_ok=True)
    save_file(tensors, os.path.join(directory, "model.safetensors"))
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    for file_name, text in fixture["files"].items():
        with open(os.path.join(directory, file_name), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
