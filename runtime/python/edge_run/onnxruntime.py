"""Patches as adapters of ONNX Runtime, for the graph in a bundle, `encoder.onnx`.

In: a patch; or an adapter and a head. Out: an `.onnx_adapter` and the head; or a patch. Refused: an adapter of another graph.

An adapter has the biases and low-rank terms, which ONNX Runtime gives to the graph as inputs. It has no head: that stays with the program,
which computes `pooled @ weight.T + bias` of the hidden states that the graph gives. A graph takes low-rank terms if the bundle was exported
with `--low-rank-inputs`.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Mapping

import numpy
from onnxruntime import AdapterFormat, OrtValue
from safetensors.numpy import load, save_file

from ._edge_run import extract, from_peft


def to_adapter(patch: Any, encoder: Any, path: Any) -> "dict[str, numpy.ndarray[Any, Any]]":
    """Writes an adapter of a patch, a path or bytes, and gives the head's matrices and biases under Hugging Face names.

    `RunOptions.add_active_adapter` takes the adapter once `LoraAdapter().Load(path)` has read it.
    """
    data, inputs = extract(patch, encoder)
    tensors = load(data)
    adapter = AdapterFormat()
    adapter.set_parameters({name: OrtValue.ortvalue_from_numpy(tensors[name]) for name in sorted(inputs & {*tensors})})
    # A file that is there is whole.
    with tempfile.TemporaryDirectory(dir=Path(path).absolute().parent) as directory:
        part = Path(directory) / "adapter"
        adapter.export_adapter(str(part))
        os.replace(part, path)
    return {name: value for name, value in tensors.items() if name not in inputs}


def from_adapter(
    adapter: Any, head: "Mapping[str, numpy.ndarray[Any, Any]]", encoder: Any, output: Any, *, task: "Mapping[str, Any]"
) -> "dict[str, Any]":
    """Makes a patch of an adapter and a head such as `to_adapter` gives; `task` and what is given are as in `edge_run.from_peft`."""
    parameters = AdapterFormat.read_adapter(str(adapter)).get_parameters()
    tensors = {name: value.numpy() for name, value in parameters.items()}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "adapter.safetensors"
        save_file({name: numpy.ascontiguousarray(value) for name, value in {**tensors, **head}.items()}, file)
        return from_peft(file, encoder, output, task=task)
