"""Writes fixtures/peft.json: what PEFT computes with small adapters on the small encoders of make_encoders.py.

Run:  pip install -r requirements-make.txt && python make_peft.py
The file holds, for each adapter, its adapter_config.json, the name and shape of every tensor that PEFT saves, texts,
and for each text the logits. Values are not stored: numbers_of.py makes them from a tensor's name.

      python make_peft.py --compare NAME DIR
prints how far the logits with the adapter in DIR are from those of the fixture NAME. DIR is what `edge-patch extract
--format peft` makes of the imported fixture.
"""

import json
import os
import sys
import tempfile
import warnings

import peft
import torch
import transformers
from make_encoders import ENCODERS, RENAMED, TEXTS, load, tokenizer_files, value
from peft import BeftConfig, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "peft.json")
LABELS = 3


def lora(**fields):
    return LoraConfig(task_type="SEQ_CLS", **fields)


def own(**fields):
    return LoraConfig(modules_to_save=["classifier"], **fields)


# Each field of an adapter's configuration that changes what it computes, in every family.
ADAPTERS = {
    "bert-r8": ("bert", lambda: lora(r=8, lora_alpha=16, target_modules=["query", "value"])),
    "bert-patterns": (
        "bert",
        lambda: lora(
            r=2,
            lora_alpha=3,
            target_modules="all-linear",
            # The first key that fits counts: layer 0's value has alpha 5, the output of layer 1's MLP has rank 4.
            rank_pattern={"value": 1, "bert.encoder.layer.1.output.dense": 4, "attention.output.dense": 8},
            alpha_pattern={"layer.0.attention.self.value": 5, "value": 7, "pooler.dense": 1},
        ),
    ),
    "bert-bias": (
        "bert",
        lambda: lora(r=1, lora_alpha=1, target_modules=["key", "intermediate.dense"], bias="all", lora_bias=True, layers_to_transform=[1]),
    ),
    "bert-beft": ("bert", lambda: BeftConfig(task_type="SEQ_CLS", target_modules=["query", "value", "intermediate.dense"])),
    "roberta-rslora": (
        "roberta",
        lambda: lora(r=8, lora_alpha=4, target_modules=["query", "key", "value"], use_rslora=True, bias="lora_only", rank_pattern={"key": 3}),
    ),
    "distilbert-r2": ("distilbert", lambda: lora(r=2, lora_alpha=8, target_modules=r".*\.(q_lin|v_lin|lin2)", modules_to_save=["pre_classifier"])),
    "electra-r1": ("electra", lambda: lora(r=1, lora_alpha=2, target_modules=["query", "output.dense", "embeddings_project"], bias="all")),
    "mpnet-r2": ("mpnet", lambda: lora(r=2, lora_alpha=2, target_modules=["q", "o", "intermediate.dense"])),
    # One layer's term is that of every repetition.
    "albert-r2": ("albert", lambda: lora(r=2, lora_alpha=4, target_modules=["query", "ffn", "embedding_hidden_mapping_in"])),
    # Modules that transformers splits and renames, in a model of one's own.
    "nomic-r2": ("nomic", lambda: own(r=2, lora_alpha=4, target_modules=["q_proj", "o_proj", "gate_proj", "down_proj"], bias="all")),
    "gte-r2": ("gte", lambda: own(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj", "gate_proj", "up_proj"], rank_pattern={"v_proj": 3}, bias="all")),
    # Modules of which each is several of ours.
    "modernbert-r3": ("modernbert", lambda: own(r=3, lora_alpha=6, target_modules=["Wqkv", "Wi", "Wo"])),
}


class FirstToken(torch.nn.Module):
    """A classifier of the first token's hidden state: a model of one's own, for families whose own has a LayerNorm before the last
    layer, or a pooler that the encoder has not."""

    def __init__(self, encoder):
        super().__init__()
        setattr(self, encoder.base_model_prefix, encoder)
        self.prefix, self.classifier = encoder.base_model_prefix, torch.nn.Linear(encoder.config.hidden_size, LABELS)

    def forward(self, **inputs):
        hidden = getattr(self, self.prefix)(**inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(hidden[:, 0]))


def base(encoder):
    """A sequence classifier over an encoder of make_encoders.py, and its tokenizer."""
    kind, fields = ENCODERS[encoder]
    config = AutoConfig.for_model(fields["model_type"], **{k: v for k, v in fields.items() if k != "model_type"}, num_labels=LABELS)
    with tempfile.TemporaryDirectory() as directory:
        for file, text in tokenizer_files(kind).items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                out.write(text)
        config.save_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        if fields["model_type"] in (*RENAMED, "modernbert"):
            # Values go by the names of the checkpoint.
            return FirstToken(load(directory, config)[0].float()).eval(), tokenizer
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval().to(torch.float32)
    with torch.no_grad():
        for name, parameter in model.base_model.named_parameters():
            parameter.copy_(value(name, list(parameter.shape)))
    return model, tokenizer


def logits(model, tokenizer, encoder, text):
    # ALBERT's tokenizer gives no types unless it is asked, and its model then takes zeros for pairs too.
    encoded = tokenizer(*text, return_tensors="pt", return_token_type_ids=True if encoder == "albert" else None)
    inputs = {k: v for k, v in encoded.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
    if encoder in ("roberta", "distilbert"):
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return [float(v) for v in model(**inputs).logits[0]]


def values(tensors):
    """The values of tensors by name. PEFT may save one parameter of the head under two names: both have its values."""
    plain = {name: name.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".") for name in tensors}
    return {name: value(plain[name], shape) for name, shape in tensors.items()}


def make(encoder, config):
    model, tokenizer = base(encoder)
    model = get_peft_model(model, config).eval()
    tensors = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    due = values(tensors)
    set_peft_model_state_dict(model, due)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        with open(os.path.join(directory, "adapter_config.json")) as saved:
            config_json = json.load(saved)
        if isinstance(config_json["target_modules"], list):
            # PEFT writes a set.
            config_json["target_modules"].sort()
        with safe_open(os.path.join(directory, "adapter_model.safetensors"), "pt") as saved:
            assert sorted(saved.keys()) == sorted(tensors)
            for name in tensors:
                assert torch.equal(saved.get_tensor(name), due[name]), name
        model = PeftModel.from_pretrained(base(encoder)[0], directory).eval()
    # f64, to which an f32 engine should come close.
    model = model.double()
    cases = [{"text": text, "logits": [round(v, 7) for v in logits(model, tokenizer, encoder, text)]} for text in TEXTS]
    return {"encoder": encoder, "config": config_json, "tensors": tensors, "cases": cases}


def compare(name, directory):
    with open(OUT, encoding="utf-8") as file:
        fixture = json.load(file)["adapters"][name]
    model, tokenizer = base(fixture["encoder"])
    with warnings.catch_warnings():
        # A key that the model has no place for, or the reverse, is only a warning.
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(model, directory).eval().double()
    found = [logits(model, tokenizer, fixture["encoder"], case["text"]) for case in fixture["cases"]]
    worst = max(abs(a - b) for case, row in zip(fixture["cases"], found) for a, b in zip(case["logits"], row))
    print(f"{name}: largest difference {worst:.1e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        compare(*sys.argv[2:])
        sys.exit()
    made_with = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "peft": peft.__version__}
    adapters = {}
    for name, (encoder, config) in ADAPTERS.items():
        adapters[name] = make(encoder, config())
        print(f"{name:16} {len(adapters[name]['tensors']):3} tensors, logits {adapters[name]['cases'][0]['logits']}")
    with open(OUT, "w", encoding="utf-8") as out:
        json.dump({"made_with": made_with, "adapters": adapters}, out, ensure_ascii=False, separators=(",", ":"), sort_keys=False)
        out.write("\n")
