"""Answers as columns of Arrow, for engines that hold tables.

In: patches, and columns of texts. Out: for each patch a column of structs, whose fields are those of its answers. Refused: what an encoder
refuses; a text that cannot be answered is quoted.
"""

from typing import Any

import numpy
import pyarrow

from . import Encoder, Error

_TEXT, _NUMBER, _CHARACTER = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
_RANKED = [("label", _TEXT), ("score", _NUMBER)]
_LOGITS = pyarrow.list_(pyarrow.float32())
_PLACED = [("start", _CHARACTER), ("end", _CHARACTER)]

# Whose answers are dictionaries at a time, which take more memory than columns.
_ROWS = 256

# What `Encoder.predict` gives, by the kind of a task. An embedding's vector has a width of its own.
_FIELDS = {
    "classification": _RANKED,
    "multi-label": [("labels", pyarrow.list_(pyarrow.struct(_RANKED)))],
    "regression": [("value", _NUMBER)],
    "tagging": [("tags", pyarrow.list_(pyarrow.struct([("word", _TEXT), *_PLACED, *_RANKED])))],
    "span": [*_RANKED, ("spans", pyarrow.list_(pyarrow.struct([("text", _TEXT), *_PLACED, ("score", _NUMBER)])))],
}

# Whose logits are of a whole text; the other kinds have some for each token.
_OF_THE_TEXT = ("classification", "multi-label", "regression")


class Columns:
    """The tasks of patches, on an `Encoder`, the one in a bundle's directory, or with None the one in the store.

    With errors="return", a struct also has the field `error`: what is wrong with the text, whose other fields are then null.
    With `logits`, those of a classification, a regression and multi-label also have `logits`, of which scores are made.
    """

    def __init__(self, patches: Any, encoder: Any = None, errors: str = "raise", logits: bool = False) -> None:
        if not isinstance(patches, (list, tuple)):
            raise Error(f"patches: expected a list of patches, found a {type(patches).__name__}")
        if not patches:
            raise Error("patches: expected one or more, found none")
        if errors not in ("raise", "return"):
            raise Error(f'errors: expected "raise" or "return", found {errors!r}')
        if not isinstance(encoder, Encoder):
            encoder = Encoder.of(patches[0]) if encoder is None else Encoder(encoder)
        self.encoder, self.raises, self.logits = encoder, errors == "raise", logits
        self.tasks = [encoder.attach(patch) for patch in patches]
        if logits and not any(task.kind in _OF_THE_TEXT for task in self.tasks):
            kinds = ", ".join(sorted({task.kind for task in self.tasks}))
            raise Error(f"logits: expected a patch for one of {', '.join(_OF_THE_TEXT)}, found {kinds}")
        self.types = [self._type(task) for task in self.tasks]

    def __call__(self, *columns: pyarrow.ChunkedArray) -> "list[pyarrow.ChunkedArray]":
        """A column for each task, of one column of texts, or of two, for pairs."""
        parts = [self._part([column.slice(at, _ROWS) for column in columns]) for at in range(0, len(columns[0]), _ROWS)]
        return [pyarrow.chunked_array([part[at] for part in parts], type=of) for at, of in enumerate(self.types)]

    def _part(self, columns: "list[pyarrow.ChunkedArray]") -> "list[pyarrow.StructArray]":
        lists = [column.to_pylist() for column in columns]
        texts = lists[0] if len(lists) == 1 else [*zip(*lists)]
        others = [task for task in self.tasks if task.kind != "embedding"]
        # Together, so that they share the layers in which they are equal.
        answers = zip(*self.encoder.predict(texts, others, errors="return"))
        return [
            self._vectors(texts, task, of) if task.kind == "embedding" else self._column(texts, task, of, next(answers))
            for task, of in zip(self.tasks, self.types)
        ]

    def _type(self, task: Any) -> pyarrow.StructType:
        if task.kind == "embedding":
            fields = [("vector", pyarrow.list_(pyarrow.float32(), self.encoder.embed([], task).shape[1]))]
        else:
            logits = self.logits and task.kind in _OF_THE_TEXT
            fields = [*_FIELDS[task.kind], *([("logits", _LOGITS)] if logits else [])]
        return pyarrow.struct(fields if self.raises else [*fields, ("error", _TEXT)])

    def _column(self, texts: "list[Any]", task: Any, of: pyarrow.StructType, answers: Any) -> pyarrow.StructArray:
        if self.raises:
            for text, answer in zip(texts, answers):
                if "error" in answer:
                    raise _refused(task, text, answer["error"])
        return pyarrow.array(answers, type=of)

    def _vectors(self, texts: "list[Any]", task: Any, of: pyarrow.StructType) -> pyarrow.StructArray:
        vectors = self.encoder.embed(texts, task, errors="return")
        wrong = numpy.isnan(vectors).any(axis=1)
        # A row of NaN does not say why.
        why = {at: self.encoder.predict([texts[at]], [task], errors="return")[0][0]["error"] for at in wrong.nonzero()[0]}
        if self.raises:
            for at, error in why.items():
                raise _refused(task, texts[at], error)
        # The array's own memory, not a copy.
        rows = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(vectors.reshape(-1)), vectors.shape[1], mask=pyarrow.array(wrong)
        )
        errors = pyarrow.array([why.get(at) for at in range(len(texts))], type=_TEXT)
        return pyarrow.StructArray.from_arrays([rows] if self.raises else [rows, errors], fields=list(of))


def _refused(task: Any, text: Any, error: str) -> Error:
    start = repr(text)
    return Error(f"{task.name}, text {start if len(start) <= 60 else start[:60] + '...'}: {error}")
