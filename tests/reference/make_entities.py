"""Writes ../fixtures/entities.json: the entities that transformers' token-classification pipeline finds with small encoders.

Run:  pip install -r requirements-make.txt && python make_entities.py
The encoders are those of make_encoders.py; the tagger's head has the numbers that numbers_of.py makes of the names below. Each
encoder has labels of another form. Texts in which a token's two best labels are nearly equal are left out.
"""

import json
import os
import random
import tempfile
import warnings

import torch
import transformers
from numbers_of import numbers
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, pipeline

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
TEXTS = 200
STRATEGIES = ["simple", "first", "average", "max"]
WORDS = """the film was good bad very unhappy unhappily happy cafe café Film Good it is not one two hhhh東 東京 naïve cafés facade dead
bagged ! . , ? it's don't good, bad. (good) film-good T.C. …""".split()
# A letter with a combining accent, and special tokens as a text may spell them.
WORDS += ["cafe\u0301", "bad\u0301e", "[UNK]", "[SEP]", "<unk>", "x<unk>y"]
GAPS = [" "] * 12 + ["  ", "\t", "\n", "\u00a0", ""]
# XLM-RoBERTa's published files name the unknown token.
CONFIG = {"xlm-roberta": {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}}
LABELS = {
    "bert": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    # IOB1
    "roberta": ["I-PER", "B-PER", "I-LOC", "O"],
    "xlm-roberta": ["O", "NOUN", "X-NOUN", "B-PER", "I-PER", "L-PER", "VERB"],
}


def texts():
    random.seed(15)
    while True:
        words = [random.choice(WORDS) for _ in range(random.randint(1, 6))]
        text = "".join(word + random.choice(GAPS) for word in words)
        yield text if random.random() < 0.2 else text.strip()


def value(name, shape):
    return torch.tensor(numbers(name, shape), dtype=torch.float64).to(torch.float32).reshape(shape)


def load(name):
    with open(os.path.join(FIXTURES, "encoders", name + ".json")) as file:
        made = json.load(file)
    if name in CONFIG:
        made["files"]["tokenizer_config.json"] = json.dumps(CONFIG[name])
    labels = dict(enumerate(LABELS[name]))
    with tempfile.TemporaryDirectory() as place:
        for file, content in [("config.json", json.dumps(made["config"])), *made["files"].items()]:
            with open(os.path.join(place, file), "w") as out:
                out.write(content)
        config = AutoConfig.from_pretrained(place, id2label=labels, label2id={label: at for at, label in labels.items()})
        tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for tensor, parameter in model.named_parameters():
            known = tensor.split(".", 1)[1] if not tensor.startswith("classifier") else tensor.replace("classifier.", "entities ")
            parameter.copy_(value(known, list(parameter.shape)))
    return model, tokenizer


def clear(model, tokenizer, text):
    """Whether every token's best label is clearly the best, and the text is not cut."""
    encoded = tokenizer(text, return_tensors="pt")
    if encoded["input_ids"].shape[1] > 40:
        return False
    with torch.no_grad():
        best = model(**encoded).logits[0].softmax(-1).topk(2).values
    return bool((best[:, 0] - best[:, 1]).min() > 1e-3)


def main():
    warnings.simplefilter("ignore")
    taggers = {name: load(name) for name in LABELS}
    found = [text for text, _ in zip((t for t in texts() if t.strip() and all(clear(*tagger, t) for tagger in taggers.values())), range(TEXTS))]
    assert len(set(found)) > 0.9 * TEXTS
    encoders = []
    for name, (model, tokenizer) in taggers.items():
        run = {at: pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=at) for at in STRATEGIES}
        # For each text and strategy, entities as label, start, end and score in millionths, one after the other.
        entities = [
            [[v for e in run[at](text) for v in (e["entity_group"], e["start"], e["end"], round(1e6 * float(e["score"])))] for at in STRATEGIES]
            for text in found
        ]
        encoders.append({"encoder": name, "labels": LABELS[name], "entities": entities})
    made_with = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    out = {"made_with": made_with, "strategies": STRATEGIES, "texts": found, "encoders": encoders}
    with open(os.path.join(FIXTURES, "entities.json"), "w") as file:
        json.dump(out, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


main()
