"""Patches over datasets of Ray Data, and tables of trainings in tasks of Ray.

In: batches with a column of texts, or two for pairs. Out: the same batches with columns of answers. Refused: columns that are not
there, or already there, and what an encoder refuses; the error quotes the text. A table has files in and out, and is refused what
`edge-patch table` refuses.
"""

import functools
import os
from typing import Any, Optional

import pyarrow
import ray
from ray.data.block import BlockAccessor

from . import Error
from ._columns import Columns
from ._edge_run import table as _table


def table(
    encoder: Any, data: "list[str]", rows: "list[str]", results: Any, output: Any, *, processors: int = 1, **recipe: Any
) -> None:
    """Writes the table that `edge-patch table` writes, to the last byte. Each cell, a row on a data set, is a task of Ray.

    `encoder` is a bundle's directory. `data` and `rows` have what --data and --rows take, such as "sst2=task.json,train.tsv,dev.tsv"
    and "full@1e-5". `results` is a directory. Every node needs all these files under the same paths, and writes into `results`.
    A task runs on `processors` threads, and on another node if its node fails; what was trained by then is kept.

    `recipe` has `epochs`, `batch`, `learning_rates`, `seeds`, `class_weights` and `patience` as `edge_run.train`, and
    `residual_rate` and `rate_by_first_seed` as the command. Processors with other kernels round
    otherwise; EDGE_RUN_ISA gives all the same.
    """
    # A task runs in a directory of its node.
    make = functools.partial(_table, encoder, data, rows, results, output, directory=os.getcwd(), **recipe)
    count = len(data) * len(rows)

    @ray.remote(num_cpus=processors)
    def cell(at: int) -> "list[str]":
        return [str(file) for file in make(cell=(at, count), threads=processors)]

    for files in ray.get([cell.remote(at) for at in range(count)]):
        for file in files:
            if not os.path.exists(file):
                raise Error(f"results: expected a directory that this machine shares with every node, found no {file} here")
    make()


class Labeller:
    """A class for `Dataset.map_batches`: each actor maps one encoder, and the actors of a node share its weights.

    `patches` is a list of paths, which every node has, or of patches' bytes. `text` and `pair` name columns. `encoder` is a
    bundle's directory on every node; None is the encoder that the first patch was made for, in the store of each node.

    A task called NAME adds the columns NAME_label and NAME_score if it is a classification; those and NAME_spans for spans;
    NAME_value for a regression, NAME_vector for an embedding, NAME_tags for tagging, and NAME_labels for multi-label. With
    logits=True a classification, a regression and multi-label also add NAME_logits, lists of float32. With errors="return"
    NAME_error says what is wrong with a text, and the others are null; otherwise such a text ends the run.
    """

    def __init__(
        self,
        patches: Any,
        *,
        text: str = "text",
        pair: Optional[str] = None,
        encoder: Any = None,
        errors: str = "raise",
        logits: bool = False,
    ) -> None:
        self.columns = Columns(patches, encoder, errors, logits)
        self.names = [text] if pair is None else [text, pair]

    def __call__(self, batch: Any) -> pyarrow.Table:
        # A batch has the form that map_batches was asked for.
        table = BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()
        for name in self.names:
            if name not in table.column_names:
                raise Error(f"expected a column {name!r} of texts, found {', '.join(table.column_names) or 'none'}")
        answers = self.columns(*(table.column(name) for name in self.names))
        for task, column in zip(self.columns.tasks, answers):
            for field, values in zip(column.type, column.flatten()):
                name = f"{task.name}_{field.name}"
                if name in table.column_names:
                    raise Error(f"expected no column {name!r}, which is for an answer; found one: drop or rename it")
                table = table.append_column(name, values)
        return table
