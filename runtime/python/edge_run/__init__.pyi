# Types alone: what each does is said in src/, from which help() has it.

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Optional, Protocol, TypedDict, Union, final

import numpy

__all__ = ["Encoder", "Error", "Task", "from_peft", "to_peft", "train"]

Text = Union[str, tuple[str, str], Sequence[str]]
_Label = Union[str, int, float, Sequence[Union[str, int]], Mapping[str, Any], None]
_Path = Union[str, os.PathLike[str]]
_Engine = Literal["auto", "lowered", "tract"]
_Activations = Literal["short", "f32", "int8"]
_Errors = Literal["raise", "return"]

class Error(ValueError): ...

@final
class Encoder:
    def __new__(
        cls, bundle: _Path, *, engine: _Engine = "auto", activations: _Activations = "short", threads: int = 1
    ) -> "Encoder": ...
    @staticmethod
    def of(
        patch: Union[_Path, bytes],
        *,
        engine: _Engine = "auto",
        activations: _Activations = "short",
        threads: int = 1,
    ) -> "Encoder": ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    def attach(
        self,
        patch: Union[_Path, bytes],
        *,
        prompt: Optional[str] = None,
        entities: Optional[Literal["simple", "first", "average", "max"]] = None,
    ) -> "Task": ...
    def predict(
        self,
        texts: Iterable[Text],
        tasks: Iterable["Task"],
        *,
        top_k: int = 1,
        max_length: Optional[int] = None,
        errors: _Errors = "raise",
    ) -> list[list[dict[str, Any]]]: ...
    def embed(
        self, texts: Iterable[Text], task: "Task", *, max_length: Optional[int] = None, errors: _Errors = "raise"
    ) -> "numpy.ndarray[Any, numpy.dtype[numpy.float32]]": ...

@final
class Task:
    def __call__(self, text: Text, *, top_k: int = 1, max_length: Optional[int] = None) -> dict[str, Any]: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def inputs(self) -> int: ...
    @property
    def labels(self) -> list[str]: ...

class _Trained(TypedDict):
    path: os.PathLike[str]
    bytes: int
    metric: str
    score: float

class _Imported(TypedDict):
    path: os.PathLike[str]
    bytes: int
    base_model: Optional[str]

class _PeftModel(Protocol):
    def save_pretrained(self, save_directory: str) -> Any: ...

def train(
    encoder: Union[Encoder, _Path],
    texts: Iterable[Text],
    labels: Iterable[_Label],
    output: _Path,
    *,
    kind: Optional[str] = None,
    task: Optional[Mapping[str, Any]] = None,
    dev: Optional[tuple[Iterable[Text], Iterable[_Label]]] = None,
    metric: Optional[str] = None,
    slots: Optional[str] = None,
    epochs: Optional[int] = None,
    batch: Optional[int] = None,
    learning_rates: Optional[Sequence[float]] = None,
    seeds: Optional[Sequence[int]] = None,
    class_weights: Optional[Literal["none", "balanced"]] = None,
    patience: Optional[int] = None,
    progress: Union[Callable[[dict[str, Any]], object], bool, None] = None,
) -> _Trained: ...
def from_peft(
    adapter: Union[_PeftModel, _Path], encoder: Union[Encoder, _Path], output: _Path, *, task: Mapping[str, Any]
) -> _Imported: ...
def to_peft(patch: Union[_Path, bytes], encoder: Union[Encoder, _Path], directory: _Path) -> None: ...
