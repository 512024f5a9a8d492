"""A patch as an estimator of scikit-learn.

In: texts, or pairs of them, and labels. Out: labels and probabilities. Refused: numbers in place of texts, and what
`edge_run.train` refuses.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Literal, Optional, Union

import numpy
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from . import Encoder, Error, train


class PatchClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of texts, or of pairs of texts: a patch for the encoder in a bundle's directory.

    `X` is a list, an array or a column of texts, or has two columns, for pairs. `pooling` and `max_length` are those of a
    task.json. `class_weight="balanced"` weighs labels by how rare they are. `random_state` is the seed. `threads` is how many
    threads the encoder runs on. `verbose` is the `progress`. All else is as in `edge_run.train`, and so is what None stands for.

    `fit` sets `classes_`, the labels, and `patch_`, the patch's bytes, which an encoder can attach and a file can hold. Without
    other texts to judge by, it keeps the epoch with the best accuracy on the training texts.
    """

    def __init__(
        self,
        encoder: Union[str, "os.PathLike[str]"],
        *,
        pooling: Optional[Literal["cls", "mean", "pooler", "last"]] = None,
        max_length: Optional[int] = None,
        slots: Optional[str] = None,
        epochs: Optional[int] = None,
        batch: Optional[int] = None,
        learning_rate: Optional[float] = None,
        class_weight: Optional[Literal["balanced"]] = None,
        random_state: Optional[int] = None,
        threads: int = 1,
        verbose: Union[bool, Callable[[Any], object]] = False,
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.max_length = max_length
        self.slots = slots
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.random_state = random_state
        self.threads = threads
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "PatchClassifier":
        """Trains the patch."""
        texts, y = _texts(X), column_or_1d(y, warn=True)
        check_classification_targets(y)
        self.classes_ = numpy.unique(y)
        if len(self.classes_) < 2:
            raise Error(f"y: expected at least two classes, found {len(self.classes_)} class")
        task = {"labels": _names(self.classes_), "pooling": self.pooling, "max_length": self.max_length}
        with tempfile.TemporaryDirectory() as directory:
            output = Path(directory) / "classifier.bias"
            train(
                self._encoder(),
                texts,
                _names(y),
                output,
                kind="classification",
                task={field: value for field, value in task.items() if value is not None},
                slots=self.slots,
                epochs=self.epochs,
                batch=self.batch,
                learning_rates=None if self.learning_rate is None else [self.learning_rate],
                seeds=None if self.random_state is None else [self.random_state],
                class_weights=self.class_weight,
                progress=self.verbose,
            )
            self.patch_ = output.read_bytes()
        return self

    def predict_proba(self, X: Any) -> "numpy.ndarray[Any, Any]":
        """The probability of each of `classes_`, a row for each text."""
        check_is_fitted(self)
        encoder, labels = self._encoder(), _names(self.classes_)
        answers = encoder.predict(_texts(X), [encoder.attach(self.patch_)], top_k=len(labels))
        scores = [{one["label"]: one["score"] for one in answer["top"]} for [answer] in answers]
        return numpy.array([[of[label] for label in labels] for of in scores]).reshape(len(scores), len(labels))

    def predict(self, X: Any) -> "numpy.ndarray[Any, Any]":
        """The likeliest label of each text."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def _encoder(self) -> Encoder:
        # Mapped each time anew, in about a millisecond: nothing has to be left out of a pickle or a forked process.
        return Encoder(self.encoder, threads=self.threads)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        # Of numbers, that is.
        tags.no_validation = True
        return tags


def _names(labels: Any) -> "list[str]":
    return [str(label) for label in labels]


def _texts(X: Any) -> "list[Any]":
    """Texts, or pairs of texts as tuples."""
    values = numpy.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 2:
        return [tuple(pair) for pair in values]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise Error(f"X: expected texts, or pairs of texts, found an array of shape {values.shape}")
    return list(values)
