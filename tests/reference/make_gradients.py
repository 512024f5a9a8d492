"""Writes fixtures/gradients.json: PyTorch's gradients of the losses that edge-patch trains by, on the small encoders.

Run after make_encoders.py, with the same packages: `python make_gradients.py [NAME...]`. With names, what the file has of
other encoders stays as it is; without, all are computed. Everything is in f64. For each encoder, each kind of task and each bias
vector: the gradient's norm, and its products with three vectors that `value` makes (tests/tests/gradients.rs does the same).
The texts go through PyTorch as one padded batch, so padding has to cost nothing. The softmax of an answer's start and end is
over the tokens of the second text.
"""

import json
import os
import sys
import tempfile

import torch
import torch.nn.functional as F
from make_encoders import ENCODERS, OUT, TEXTS, load, types_of, value
from published import native
from slots import prepare, slots
from transformers import AutoConfig, AutoTokenizer

KINDS = ["mean", "cls", "pooler", "tagging", "span"]
WITHOUT_POOLER = ("distilbert", "electra", "modernbert", "deberta-v2", "nomic_bert", "gte", "new")
ANSWER = "was happy"


def gradients(name, kind):
    with open(os.path.join(OUT, name + ".json"), encoding="utf-8") as file:
        fixture = json.load(file)
    with tempfile.TemporaryDirectory() as directory:
        for file, text in fixture["files"].items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                out.write(text)
        with open(os.path.join(directory, "config.json"), "w") as out:
            json.dump(native(fixture["config"]), out)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        config = AutoConfig.from_pretrained(directory)
        model, _ = load(directory, config)
    prepare(model)
    texts = {"tagging": [1], "span": [2]}.get(kind, [1, 2])
    cases = [case for case in fixture["cases"][: len(TEXTS)] if len(case["text"]) in texts]
    rows = [tokenizer(*case["text"], return_offsets_mapping=True, **types_of(config)) for case in cases]
    for row, case in zip(rows, cases):
        assert row["input_ids"] == case["input_ids"], name
    longest = max(len(row["input_ids"]) for row in rows)
    pad = lambda lists, fill: torch.tensor([list(l) + [fill] * (longest - len(l)) for l in lists])
    mask = pad([[1] * len(row["input_ids"]) for row in rows], 0)
    inputs = {"input_ids": pad([row["input_ids"] for row in rows], tokenizer.pad_token_id or 0), "attention_mask": mask}
    if "token_type_ids" in rows[0] and fixture["config"].get("type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = pad([row["token_type_ids"] for row in rows], 0)
    output = model(**inputs)
    hidden = output.last_hidden_state
    outputs = {"cls": 1, "span": 2}.get(kind, 3)
    weight = value("head weight", [outputs, hidden.shape[-1]]).double().requires_grad_()
    bias = value("head bias", [outputs]).double().requires_grad_()
    if kind == "tagging":
        losses = []
        for at, (row, case) in enumerate(zip(rows, cases)):
            text, position, firsts = case["text"][0], 0, []
            tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
            for word in text.split():
                start = text.index(word, position)
                position = start + len(word)
                covers = [i for i, (a, b) in enumerate(row["offset_mapping"]) if a < position and b > start and b > a]
                first = next(i for i in covers if i not in firsts)
                # Where the space before a word is a token of its own, transformers reads the word there.
                firsts.append(first - 1 if tokens[first - 1] in ("Ġ", "▁") else first)
            tags = torch.tensor([word % 3 for word in range(len(firsts))])
            losses.append(F.cross_entropy(hidden[at, firsts] @ weight.T + bias, tags))
        loss = torch.stack(losses).mean()
    elif kind == "span":
        losses = []
        for at, (row, case) in enumerate(zip(rows, cases)):
            start = case["text"][1].index(ANSWER)
            second = [i for i, text in enumerate(row.sequence_ids(0)) if text == 1]
            place = row["offset_mapping"]
            covers = [i for i, token in enumerate(second) if place[token][0] < start + len(ANSWER) and place[token][1] > start]
            logits = hidden[at, second] @ weight.T + bias
            losses += [F.cross_entropy(logits[:, column], torch.tensor(covers[-column])) for column in (0, 1)]
        loss = torch.stack(losses).mean()
    elif kind == "cls":
        values = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
        loss = F.mse_loss((hidden[:, 0] @ weight.T + bias)[:, 0], values)
    else:
        if kind == "pooler":
            vector = output.pooler_output
        else:
            vector = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        loss = F.cross_entropy(vector @ weight.T + bias, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    found = {"": [loss.item()]}
    heads = [("head weight", weight, slice(None)), ("head bias", bias, slice(None))]
    for slot, parameter, part in [*slots(model), *heads]:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradient = gradient[part]
        probes = [float((gradient.flatten() * value(f"probe {i} {slot}", [gradient.numel(), 1]).double().flatten()).sum()) for i in range(3)]
        found[slot] = [float(f"{number:.9g}") for number in [gradient.norm().item(), *probes]]
    return found


if __name__ == "__main__":
    path = os.path.join(OUT, "..", "gradients.json")
    gradients_of = {}
    if len(sys.argv) > 1:
        with open(path, encoding="utf-8") as file:
            gradients_of = json.load(file)
    for name in sys.argv[1:] or ENCODERS:
        kinds = [kind for kind in KINDS if kind != "pooler" or ENCODERS[name][1]["model_type"] not in WITHOUT_POOLER]
        gradients_of[name] = {kind: gradients(name, kind) for kind in kinds}
        print(name, {kind: round(found[""][0], 6) for kind, found in gradients_of[name].items()})
    with open(path, "w", encoding="utf-8") as out:
        json.dump(gradients_of, out, separators=(",", ":"))
        out.write("\n")
