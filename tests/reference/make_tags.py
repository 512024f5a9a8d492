"""Writes ../fixtures/tags.json: at which token transformers reads each word of a list, for the small tokenizers beside it.

The recipe is that of its examples for token classification: `is_split_into_words`, and the first token of each word.
Run with the packages of requirements-make.txt.
"""

import json
import os
import tempfile

import transformers
from transformers import AutoTokenizer

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
WORDS = [
    ["東京", "the", "東", "京"],
    ["the", "film", "was", "very", "good", "!"],
    ["a", "東京", "film", "café", "unhappy,", "…"],
    ["the film", "東 京", "good"],
    ["สวัสดี", "ครับ"],
]
# RoBERTa's files say nothing of a space before a text; transformers takes lists of words only with one.
SPACE = {"roberta": {"add_prefix_space": True}}
ENCODERS = ["albert", "bert", "camembert", "mpnet", "roberta", "xlm-roberta"]


def main():
    encoders = []
    for name in ENCODERS:
        with open(os.path.join(FIXTURES, "encoders", name + ".json")) as file:
            made = json.load(file)
        files = dict(made["files"])
        if name in SPACE:
            config = {**json.loads(files["tokenizer_config.json"]), **SPACE[name]}
            files["tokenizer_config.json"] = json.dumps(config)
        with tempfile.TemporaryDirectory() as place:
            for file, content in [("config.json", json.dumps(made["config"])), *files.items()]:
                with open(os.path.join(place, file), "w") as out:
                    out.write(content)
            tokenizer = AutoTokenizer.from_pretrained(place)
            cases = []
            for words in WORDS:
                found = tokenizer(words, is_split_into_words=True)
                of_token = found.word_ids()
                firsts = [of_token.index(at) if at in of_token else None for at in range(len(words))]
                cases.append({"words": words, "input_ids": found["input_ids"], "first_tokens": firsts})
        encoders.append({"encoder": name, "tokenizer_config": files.get("tokenizer_config.json"), "cases": cases})
    out = {"made_with": {"transformers": transformers.__version__}, "encoders": encoders}
    with open(os.path.join(FIXTURES, "tags.json"), "w") as file:
        json.dump(out, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


main()
