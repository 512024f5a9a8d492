"""One frozen encoder, any number of tasks: each a patch of a few kilobytes."""

import os
from typing import Any, Iterable, Literal, Sequence, Union

import numpy

Text = Union[str, tuple[str, str], Sequence[str]]
"""A text; a tuple of two that belong together, such as a question and its context; or a list of words."""

class Error(ValueError):
    """A file that cannot be used, a text that cannot be answered, or an argument of the wrong value."""

class Encoder:
    """A loaded encoder. Its weights are mapped: processes on one machine share them.

    `bundle` is a directory. `activations` says what int8 weights are multiplied with. `threads` is a number above 0; tract runs
    on one.
    """

    def __init__(
        self,
        bundle: Union[str, os.PathLike[str]],
        *,
        engine: Literal["auto", "lowered", "tract"] = "auto",
        activations: Literal["int8", "f32"] = "int8",
        threads: int = 1,
    ) -> None: ...
    @staticmethod
    def of(
        patch: Union[str, os.PathLike[str]],
        *,
        engine: Literal["auto", "lowered", "tract"] = "auto",
        activations: Literal["int8", "f32"] = "int8",
        threads: int = 1,
    ) -> "Encoder":
        """The encoder that a patch was made for, from the user's store, to which edge-export writes."""
    @property
    def name(self) -> str:
        """The checkpoint's name."""
    @property
    def digest(self) -> str:
        """What patches name it by."""
    def attach(
        self,
        patch: Union[str, os.PathLike[str]],
        *,
        prompt: Union[str, None] = None,
        entities: Union[Literal["simple", "first", "average", "max"], None] = None,
    ) -> "Task":
        """A task of a patch. `prompt` names one of an embedding task's; `entities` groups the tags of a tagging task."""
    def predict(
        self,
        texts: Iterable[Text],
        tasks: Iterable["Task"],
        *,
        top_k: int = 1,
        max_length: Union[int, None] = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[list[dict[str, Any]]]:
        """For each text, the answers of all tasks, in their order; they run together.

        `top_k`, above 0, is how many labels or spans are given. `max_length` cuts texts to so many tokens, at least 3.

        An answer has the fields that `edge-run -o jsonl` writes, `logits` and `truncated` always among them. With
        errors="return", a text that a task cannot answer has the one field `error` in the place of that answer.
        """
    def embed(
        self,
        texts: Iterable[Text],
        task: "Task",
        *,
        max_length: Union[int, None] = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> "numpy.ndarray[Any, numpy.dtype[numpy.float32]]":
        """The vectors of an embedding task, `[texts, dimensions]`.

        With errors="return", a text that cannot be answered has a row of NaN.
        """

class Task:
    """A task attached to an encoder. Called with a text, it gives the answer."""

    def __call__(self, text: Text, *, top_k: int = 1, max_length: Union[int, None] = None) -> dict[str, Any]: ...
    @property
    def name(self) -> str:
        """The task's name."""
    @property
    def kind(self) -> str:
        """The kind of task, such as "classification"."""
    @property
    def labels(self) -> list[str]:
        """Its labels; none of a task without."""
