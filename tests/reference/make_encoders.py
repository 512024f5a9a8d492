"""Writes fixtures/encoders/*.json: what Hugging Face's transformers computes on small encoders.

Run:  pip install -r requirements-make.txt && python make_encoders.py
Each file holds a config, tokenizer files, the shape of every tensor, texts, and for each text its token ids and the
last hidden state (and pooler output). Weights are not stored: numbers_of.py makes them from a tensor's name, and
tests/src/lib.rs does the same.
"""

import json
import os
import tempfile

import torch
import transformers
from numbers_of import numbers
from transformers import AutoConfig, AutoModel, AutoTokenizer

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "encoders")
WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] the a film was good bad very un ##happy ##ly happy cafe café Film Good ! . , ?
我 b c d e f g h ##a ##b ##c ##d ##e ##f ##g s ##s not it is ##n ##t ' t one two three who why""".split()
TEXTS = [
    ["The film was good!"],
    ["unhappy, very unhappily bad"],
    ["Café 我 film?"],
    ["why was the film bad?", "it is not good. it was happy, the cafe is bad!"],
]


def value(name, shape):
    return torch.tensor(numbers(name, shape), dtype=torch.float64).to(torch.float32).reshape(shape)


def byte_level():
    """A byte-level vocabulary: special tokens, the 256 byte symbols, and a few merges."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    symbols = {b: chr(b) for b in printable}
    for b in range(256):
        symbols.setdefault(b, chr(256 + len([x for x in range(b) if x not in printable])))
    merges = ["h e", "Ġ t", "Ġt he", "Ġ w", "a s", "Ġw as", "f i", "l m", "fi lm", "Ġ film", "o o", "g oo", "goo d"]
    tokens = ["<s>", "<pad>", "</s>", "<unk>"] + [symbols[b] for b in range(256)] + [m.replace(" ", "") for m in merges] + ["<mask>"]
    return {token: at for at, token in enumerate(tokens)}, merges


def unigram():
    """A SentencePiece-like tokenizer.json, as XLM-RoBERTa and CamemBERT have."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["▁the", "▁film", "▁was", "▁good", "▁bad", "▁very", "▁un", "happy", "▁happy", "▁caf", "é", "!", ",", ".", "?", "▁"]
    pieces += [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["T", "C"]
    scored = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    scored += [(piece, -1.0 - at / 10) for at, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer.to_str()


def tokenizer_files(kind):
    if kind == "unigram":
        return {"tokenizer.json": unigram(), "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})}
    if kind == "byte_level":
        vocabulary, merges = byte_level()
        return {
            "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
            "tokenizer_config.json": json.dumps({"tokenizer_class": "RobertaTokenizer"}),
        }
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": kind == "uncased"}
    return {"vocab.txt": "\n".join(WORDS) + "\n", "tokenizer_config.json": json.dumps(config)}


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
}


def make(name, kind, fields):
    files = tokenizer_files(kind)
    with tempfile.TemporaryDirectory() as directory:
        for file, text in files.items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                out.write(text)
        config = AutoConfig.for_model(fields["model_type"], **{k: v for k, v in fields.items() if k != "model_type"})
        config.save_pretrained(directory)
        with open(os.path.join(directory, "config.json")) as saved:
            config_json = json.load(saved)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModel.from_config(config, attn_implementation="eager").eval().to(torch.float32)
    tensors = {}
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(value(parameter_name, list(parameter.shape)))
            tensors[parameter_name] = list(parameter.shape)
    # f64, to which both f32 engines should come close.
    model = model.double()
    cases = []
    for text in TEXTS:
        encoded = tokenizer(*text, return_tensors="pt")
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
    for name, (kind, fields) in ENCODERS.items():
        make(name, kind, fields)
