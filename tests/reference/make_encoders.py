"""Writes fixtures/encoders/*.json: what Hugging Face's transformers computes on small encoders.

Run:  pip install -r requirements-make.txt && python make_encoders.py [NAME...]
Without names it writes all. Each file holds a config, tokenizer files, the shape of every tensor, texts, and for each text its
token ids and the last hidden state (and pooler output). Weights are not stored: numbers_of.py makes them from a tensor's name,
and tests/src/lib.rs does the same.
"""

import json
import os
import sys
import tempfile

import torch
import transformers
from numbers_of import numbers
from published import MORE_TEXTS, PUBLISHED, native
from safetensors import safe_open
from safetensors.torch import save_file
from small_tokenizers import WORDS, tokenizer_files
from transformers import AutoConfig, AutoModel, AutoTokenizer

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "encoders")
# Families of which transformers renames and splits a checkpoint's tensors.
RENAMED = ("nomic_bert", "gte")
TEXTS = [
    ["The film was good!"],
    ["unhappy, very unhappily bad"],
    ["Café 我 film?"],
    ["why was the film bad?", "it is not good. it was happy, the cafe is bad!"],
]


def value(name, shape):
    return torch.tensor(numbers(name, shape), dtype=torch.float64).to(torch.float32).reshape(shape)


SIZES = dict(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=48, max_position_embeddings=48)
ENCODERS = {
    "bert": ("uncased", dict(model_type="bert", vocab_size=len(WORDS), **SIZES)),
    "bert-cased-tanh": ("cased", dict(model_type="bert", vocab_size=len(WORDS) + 3, hidden_act="gelu_new", layer_norm_eps=1e-5, **SIZES)),
    "bert-relu": ("uncased", dict(model_type="bert", vocab_size=len(WORDS), hidden_act="relu", **SIZES)),
    "roberta": ("byte_level", dict(model_type="roberta", vocab_size=274, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                                   layer_norm_eps=1e-5, **{**SIZES, "max_position_embeddings": 66})),
    "xlm-roberta": ("unigram", dict(model_type="xlm-roberta", vocab_size=52, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                                    layer_norm_eps=1e-5, **{**SIZES, "max_position_embeddings": 66})),
    "camembert": ("unigram", dict(model_type="camembert", vocab_size=52, type_vocab_size=1, pad_token_id=1, bos_token_id=5, eos_token_id=6,
                                  layer_norm_eps=1e-5, **{**SIZES, "max_position_embeddings": 66})),
    "distilbert": ("uncased", dict(model_type="distilbert", vocab_size=len(WORDS), n_layers=2, dim=32, n_heads=4, hidden_dim=48, max_position_embeddings=48)),
    "electra": ("uncased", dict(model_type="electra", vocab_size=len(WORDS), embedding_size=16, **SIZES)),
    **PUBLISHED,
}


def load(directory, config):
    """The encoder, and the shapes of its tensors by the names that checkpoints have; the tensors have their values.

    It computes in f64, to which both f32 engines should come close. `directory` has its config.json.
    """
    # ModernBERT's eager attention would round probabilities to f32.
    attention = "sdpa" if config.model_type == "modernbert" else "eager"
    model = AutoModel.from_config(config, attn_implementation=attention).to(torch.float32)
    if config.model_type in RENAMED:
        model.save_pretrained(directory)
        file = os.path.join(directory, "model.safetensors")
        with safe_open(file, "pt") as saved:
            tensors = {name: list(saved.get_slice(name).get_shape()) for name in saved.keys()}
        save_file({name: value(name, shape) for name, shape in tensors.items()}, file, {"format": "pt"})
        model = AutoModel.from_pretrained(directory, attn_implementation=attention, dtype=torch.float32)
    else:
        tensors = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(value(name, tensors[name]))
    return model.eval().double(), tensors


def types_of(config):
    """ALBERT reads token types, though its tokenizer of transformers 5 gives them only if asked. Transformers 4 gave them."""
    return {"return_token_type_ids": True} if config.model_type == "albert" else {}


def make(name, kind, fields):
    files = tokenizer_files(kind)
    with tempfile.TemporaryDirectory() as directory:
        for file, text in files.items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                out.write(text)
        if name in PUBLISHED:
            config_json = fields
            with open(os.path.join(directory, "config.json"), "w") as out:
                json.dump(native(fields), out)
            config = AutoConfig.from_pretrained(directory)
        else:
            config = AutoConfig.for_model(fields["model_type"], **{k: v for k, v in fields.items() if k != "model_type"})
            config.save_pretrained(directory)
            with open(os.path.join(directory, "config.json")) as saved:
                config_json = json.load(saved)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model, tensors = load(directory, config)
    cases = []
    for text in TEXTS + MORE_TEXTS.get(name, []):
        encoded = tokenizer(*text, return_tensors="pt", **types_of(config))
        inputs = {k: v for k, v in encoded.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        if fields["model_type"] in ("roberta", "distilbert"):
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            output = model(**inputs)
        case = {"text": text, "input_ids": encoded["input_ids"][0].tolist(), "hidden": rounded(output.last_hidden_state[0])}
        if getattr(output, "pooler_output", None) is not None:
            case["pooled"] = rounded(output.pooler_output[0])
        cases.append(case)
    made_with = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    fixture = {"made_with": made_with, "config": config_json, "files": files, "tensors": tensors, "cases": cases}
    with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as out:
        json.dump(fixture, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")
    print(f"{name:16} {len(tensors):3} tensors, tokens {[len(c['input_ids']) for c in cases]}")


def rounded(tensor):
    flat = [[round(float(v), 6) for v in row] for row in tensor] if tensor.dim() == 2 else [round(float(v), 6) for v in tensor]
    return flat


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    for name in sys.argv[1:] or ENCODERS:
        make(name, *ENCODERS[name])
