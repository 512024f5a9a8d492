"""Writes fixtures/tokenizers.json: the token ids that Hugging Face's transformers gives where a tokenizer's files disagree,
or declare tokens beside the vocabulary.

Run:  pip install -r requirements-make.txt && python make_tokenizers.py
Vocabularies are those of fixtures/encoders/bert.json, roberta.json and mpnet.json, so make_encoders.py comes first. A case has the files
beside them, and parts of tokenizer.json that differ from the one here; without such parts it has no tokenizer.json.
The ids are the same with transformers 4.57.6 and 5.24.0; those of MPNet were made with 5.23.0 alone.
"""

import json
import os
import tempfile

import transformers
from transformers import AutoTokenizer

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures")
BERT, ROBERTA, MPNET = ({"tokenizer_class": name + "Tokenizer"} for name in ("Bert", "Roberta", "MPNet"))


def normalizer(**changes):
    settings = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return {"normalizer": {**settings, **changes}}


def token(content, special=True, **flags):
    return {"content": content, "lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, "special": special, **flags}


def byte_level(space):
    return {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}}


DECLARED = "@user the film [NEW] good"
# Name, encoder, text, tokenizer_config.json, parts of tokenizer.json or None, other files.
CASES = [
    ("a cased setting", "bert", "Film film", {**BERT, "do_lower_case": False}, {}, {}),
    ("a cased setting of DistilBERT's class", "bert", "Film film", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}, {}, {}),
    ("a cased setting of ELECTRA's class", "bert", "Film film", {"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": False}, {}, {}),
    ("a cased setting without a class", "bert", "Film film", {"do_lower_case": False}, {}, {}),
    ("a cased setting of a class that has none", "bert", "Film film", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, {}, {}),
    ("no setting, and a cased tokenizer.json", "bert", "Film film", BERT, normalizer(lowercase=False), {}),
    ("no settings at all, and a cased tokenizer.json", "bert", "Film film", None, normalizer(lowercase=False), {}),
    ("accents are kept", "bert", "Café", {**BERT, "strip_accents": False}, {}, {}),
    ("accents are kept in tokenizer.json only", "bert", "Café", BERT, normalizer(strip_accents=False), {}),
    ("Chinese characters are no words", "bert", "film 我我", {**BERT, "tokenize_chinese_chars": False}, {}, {}),
    ("a space comes first", "roberta", "the film", {**ROBERTA, "add_prefix_space": True}, {}, {}),
    ("a space comes first in tokenizer.json only", "roberta", "the film", ROBERTA, byte_level(True), {}),
    ("a list with an id", "bert", DECLARED, {**BERT, "added_tokens_decoder": {"53": token("[NEW]")}}, None, {}),
    ("a list with an id, beside tokenizer.json", "bert", DECLARED, {**BERT, "added_tokens_decoder": {"53": token("[NEW]")}}, {}, {}),
    ("a list with another id than is free", "bert", DECLARED, {**BERT, "added_tokens_decoder": {"60": token("[NEW]")}}, None, {}),
    ("a list with a word of the vocabulary", "bert", "the filmgood film", {**BERT, "added_tokens_decoder": {"7": token("film")}}, None, {}),
    ("a listed token that is normalized", "bert", "[new] film [NEW]", {**BERT, "added_tokens_decoder": {"53": token("[NEW]", special=False)}}, None, {}),
    ("a listed token that takes spaces", "roberta", "the  <e> film", {**ROBERTA, "added_tokens_decoder": {"274": token("<e>", lstrip=True, rstrip=True)}}, None, {}),
    ("more special tokens", "bert", DECLARED, {**BERT, "additional_special_tokens": ["[NEW]", "@user"]}, None, {}),
    ("more special tokens, beside tokenizer.json", "bert", DECLARED, {**BERT, "additional_special_tokens": ["[NEW]", "@user"]}, {}, {}),
    ("special tokens by names of their own", "bert", DECLARED, {**BERT, "extra_special_tokens": {"user_token": "@user"}}, None, {}),
    ("special tokens of a map", "bert", DECLARED, BERT, None, {"special_tokens_map.json": {"additional_special_tokens": ["@user"]}}),
    ("special tokens of a map, beside tokenizer.json", "bert", DECLARED, BERT, {}, {"special_tokens_map.json": {"additional_special_tokens": ["@user"]}}),
    ("a list is complete without the map", "bert", DECLARED, {**BERT, "added_tokens_decoder": {"53": token("[NEW]")}}, None, {"special_tokens_map.json": {"additional_special_tokens": ["@user"]}}),
    ("first and last tokens of a map", "bert", "film", BERT, None, {"special_tokens_map.json": {"cls_token": "one", "sep_token": token("two")}}),
    ("a named token", "bert", "filmwhy film", {**BERT, "bos_token": "why"}, None, {}),
    ("added tokens", "bert", "[NEW] [new] film", BERT, None, {"added_tokens.json": {"[NEW]": 53}}),
    ("a cased setting of MPNet's class", "mpnet", "Film film", {**MPNET, "do_lower_case": False}, {}, {}),
    ("a cased setting of MPNet's other class", "mpnet", "Film film", {"tokenizer_class": "MPNetTokenizerFast", "do_lower_case": False}, {}, {}),
    ("a cased setting of MPNet without a class", "mpnet", "Film film", {"do_lower_case": False}, {}, {}),
    ("no setting, and a cased tokenizer.json of MPNet", "mpnet", "Film film", MPNET, normalizer(lowercase=False), {}),
    ("no settings at all, and a cased tokenizer.json of MPNet", "mpnet", "Film film", None, normalizer(lowercase=False), {}),
    ("MPNet keeps accents", "mpnet", "Café", {**MPNET, "strip_accents": False}, {}, {}),
    ("MPNet keeps accents in tokenizer.json only", "mpnet", "Café", MPNET, normalizer(strip_accents=False), {}),
    ("Chinese characters are no words of MPNet", "mpnet", "film 我我", {**MPNET, "tokenize_chinese_chars": False}, {}, {}),
    ("MPNet's mask takes the space before it", "mpnet", "the <mask> film", {**MPNET, "mask_token": "<mask>"}, {}, {}),
    ("more special tokens of MPNet", "mpnet", DECLARED, {**MPNET, "additional_special_tokens": ["[NEW]", "@user"]}, {}, {}),
    ("a listed token of MPNet", "mpnet", DECLARED, {**MPNET, "added_tokens_decoder": {"58": token("[NEW]")}}, {}, {}),
    ("added tokens, beside tokenizer.json", "bert", "[NEW] [new] film", BERT, {}, {"added_tokens.json": {"[NEW]": 53}}),
]


def encoder(name):
    with open(os.path.join(FIXTURES, "encoders", name + ".json")) as file:
        return json.load(file)


def write(path, content):
    with open(path, "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))


def main():
    encoders = {name: encoder(name) for name in ["bert", "roberta", "mpnet"]}
    tokenizers = {}
    for name, made in encoders.items():
        with tempfile.TemporaryDirectory() as place:
            for file, content in [("config.json", made["config"]), *made["files"].items()]:
                write(os.path.join(place, file), content)
            tokenizers[name] = json.loads(AutoTokenizer.from_pretrained(place).backend_tokenizer.to_str())
    cases = []
    for name, base, text, config, parts, files in CASES:
        files = {file: json.dumps(content) for file, content in files.items()}
        if config is not None:
            files["tokenizer_config.json"] = json.dumps(config)
        with tempfile.TemporaryDirectory() as place:
            made = {**encoders[base]["files"], **files}
            made = {file: content for file, content in made.items() if file in files or file != "tokenizer_config.json"}
            if parts is not None:
                made = {**files, "tokenizer.json": {**tokenizers[base], **parts}}
            for file, content in [("config.json", encoders[base]["config"]), *made.items()]:
                write(os.path.join(place, file), content)
            ids = AutoTokenizer.from_pretrained(place)(text)["input_ids"]
        cases.append({"name": name, "encoder": base, "text": text, "files": files, "tokenizer": parts, "input_ids": ids})
    out = {"made_with": {"transformers": transformers.__version__}, "tokenizers": tokenizers, "cases": cases}
    write(os.path.join(FIXTURES, "tokenizers.json"), json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")


main()
