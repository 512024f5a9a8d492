"""Writes fixtures/graphs/: small random encoders as PyTorch's exporters write them as ONNX, and what transformers computes.

Run:  pip install -r requirements-make.txt && python make_graphs.py
Each NAME.onnx is a graph with its weights; fnet's are in a file beside it. graphs.json has the tokenizer's files, and for
each graph texts with their token ids, the last hidden state, and its first row after one bias is changed. Values of
parameters are made from their names, by numbers_of.py. ViT reads images, and is there to be refused.
"""

import json
import os
import tempfile
import warnings

import onnx
import torch
from make_encoders import TEXTS, value
from small_tokenizers import WORDS, tokenizer_files
from transformers import AutoConfig, AutoModel, AutoTokenizer

OUT = os.path.join(os.path.dirname(__file__), "..", "fixtures", "graphs")
SIZES = dict(num_hidden_layers=1, hidden_size=16, intermediate_size=24, vocab_size=len(WORDS), max_position_embeddings=40)
GROUPS = {f"{part}_groups": 2 for part in ("q", "k", "v", "intermediate", "output")}
# The config, which of PyTorch's exporters writes the graph, and a bias to change.
GRAPHS = {
    "bert": (dict(model_type="bert", num_attention_heads=2, **SIZES), "traced", "encoder.layer.0.intermediate.dense.bias"),
    "squeezebert": (
        dict(model_type="squeezebert", num_attention_heads=2, embedding_size=16, **GROUPS, **SIZES),
        "traced",
        "encoder.layers.0.attention.value.bias",
    ),
    "fnet": (dict(model_type="fnet", **SIZES), "dynamo", "encoder.layer.0.fourier.output.LayerNorm.bias"),
    "vit": (
        dict(model_type="vit", num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4),
        "dynamo",
        None,
    ),
}


def model_of(fields):
    config = AutoConfig.for_model(fields["model_type"], **{k: v for k, v in fields.items() if k != "model_type"})
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(value(name, list(parameter.shape)))
    return model


def traced(model, inputs, path):
    """The exporter that traces a model, as optimum uses it."""
    base = type(model)

    class Traced(base):
        def forward(self, input_ids, attention_mask, token_type_ids):
            given = dict(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            outputs = base.forward(self, **given)
            return outputs.last_hidden_state, outputs.pooler_output

    model.__class__ = Traced
    names = ["last_hidden_state", "pooler_output"]
    axes = {name: {0: "batch", 1: "sequence"} for name in [*inputs, names[0]]} | {names[1]: {0: "batch"}}
    torch.onnx.export(
        model, tuple(inputs.values()), path, input_names=list(inputs), output_names=names, dynamic_axes=axes, dynamo=False, opset_version=17
    )
    model.__class__ = base


def dynamo(model, inputs, path):
    """The exporter that PyTorch prefers since 2.9."""
    free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in inputs}
    torch.onnx.export(
        model, (), path, kwargs=inputs, input_names=list(inputs), output_names=["last_hidden_state", "pooler_output"], dynamo=True,
        dynamic_shapes=None if "pixel_values" in inputs else free, external_data=False, verbose=False,
    )


def inputs_of(fields):
    if fields["model_type"] == "vit":
        return {"pixel_values": torch.zeros(1, 3, 8, 8)}
    ids = torch.tensor([[2, 5, 6, 7, 8, 3], [2, 5, 6, 3, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}
    if fields["model_type"] == "fnet":
        inputs.pop("attention_mask")
    return inputs


def save(name, path):
    """Writes the graph again without what people read and nothing runs: it is most of its bytes."""
    graph = onnx.load(path)
    del graph.graph.value_info[:]
    del graph.metadata_props[:]
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        del value.metadata_props[:]
    out = os.path.join(OUT, f"{name}.onnx")
    beside = f"{name}.onnx.data"
    if name == "fnet":
        if os.path.exists(os.path.join(OUT, beside)):
            os.remove(os.path.join(OUT, beside))
        onnx.save(graph, out, save_as_external_data=True, location=beside, size_threshold=0)
    else:
        onnx.save(graph, out)


def rounded(tensor):
    return [[round(float(v), 7) for v in row] for row in tensor]


def cases_of(model, tokenizer, bias):
    """In f64, to which an f32 engine should come close."""
    model = model.double()
    encoded = [tokenizer(*text, return_tensors="pt", return_token_type_ids=True) for text in TEXTS]
    given = [{k: v for k, v in e.items() if k != "attention_mask"} for e in encoded]
    with torch.no_grad():
        hidden = [model(**inputs).last_hidden_state[0] for inputs in given]
        parameter = dict(model.named_parameters())[bias]
        parameter.copy_(value(f"changed.{bias}", list(parameter.shape)))
        changed = [model(**inputs).last_hidden_state[0] for inputs in given]
    return [
        {"text": text, "input_ids": inputs["input_ids"][0].tolist(), "hidden": rounded(h), "changed": rounded(c[:1])[0]}
        for text, inputs, h, c in zip(TEXTS, given, hidden, changed)
    ]


def main():
    warnings.filterwarnings("ignore")
    os.makedirs(OUT, exist_ok=True)
    files = tokenizer_files("uncased")
    fixture = {"files": files, "graphs": {}}
    with tempfile.TemporaryDirectory() as directory:
        for file, text in files.items():
            with open(os.path.join(directory, file), "w", encoding="utf-8") as out:
                out.write(text)
        AutoConfig.for_model("bert", vocab_size=len(WORDS)).save_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        for name, (fields, exporter, bias) in GRAPHS.items():
            model, path = model_of(fields), os.path.join(directory, "graph.onnx")
            {"traced": traced, "dynamo": dynamo}[exporter](model, inputs_of(fields), path)
            save(name, path)
            if bias:
                fixture["graphs"][name] = {"bias": bias, "cases": cases_of(model, tokenizer, bias)}
    with open(os.path.join(OUT, "graphs.json"), "w", encoding="utf-8") as out:
        json.dump(fixture, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
