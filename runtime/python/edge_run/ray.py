"""Patches over datasets of Ray Data.

In: batches with a column of texts, or two for pairs. Out: the same batches with columns of answers. Refused: columns that are not
there, or already there, and what an encoder refuses; the error quotes the text.
"""

from typing import Any, Optional

import pyarrow
from ray.data.block import BlockAccessor

from . import Error
from ._columns import Columns


class Labeller:
    """A class for `Dataset.map_batches`: each actor maps one encoder, and the actors of a node share its weights.

    `patches` is a list of paths, which every node has, or of patches' bytes. `text` and `pair` name columns. `encoder` is a
    bundle's directory on every node; None is the encoder that the first patch was made for, in the store of each node.

    A task called NAME adds the columns NAME_label and NAME_score if it is a classification; those and NAME_spans for spans;
    NAME_value for a regression, NAME_vector for an embedding, NAME_tags for tagging, and NAME_labels for multi-label. With
    errors="return" NAME_error says what is wrong with a text, and the others are null; otherwise such a text ends the run.
    """

    def __init__(
        self, patches: Any, *, text: str = "text", pair: Optional[str] = None, encoder: Any = None, errors: str = "raise"
    ) -> None:
        self.columns = Columns(patches, encoder, errors)
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
