"""Patches as functions of SQL, in DuckDB.

In: a connection, and a patch. Out: a function of that connection, which answers a chunk of rows at a time. Refused: what an
encoder refuses; the query then fails, and its error quotes the text.
"""

from typing import Any

import duckdb
import pyarrow

from ._columns import Columns


def register(
    connection: duckdb.DuckDBPyConnection, name: str, patch: Any, encoder: Any = None, *, logits: bool = False
) -> None:
    """Creates the function `name`, of a text, or of two for a patch that reads pairs. NULL gives NULL.

    It gives a struct of `label` and `score` for a classification, and also `spans` for a span task. For the other kinds it gives
    one value: a DOUBLE for a regression, FLOAT[n] for an embedding, a list of structs for tagging and multi-label. With
    `logits` a classification, a regression and multi-label give a struct that also has `logits`, a FLOAT[].

    `patch` is a path, or a patch's bytes. `encoder` is an `Encoder`, which functions may share, or a bundle's directory; None
    is the encoder that the patch was made for, in the user's store.
    """
    columns = Columns([patch], encoder, logits=logits)
    [task], [of] = columns.tasks, columns.types
    alone = of.num_fields == 1

    def answers(*texts: pyarrow.ChunkedArray) -> pyarrow.Array:
        [found] = columns(*texts)
        # DuckDB 1.4 reads the first of several chunks alone.
        return (found.flatten()[0] if alone else found).combine_chunks()

    # DuckDB reads from a function's signature how many texts it takes.
    function = (lambda text: answers(text)) if task.inputs == 1 else (lambda first, second: answers(first, second))
    # DuckDB's name of the type that they have.
    [result] = connection.from_arrow(pyarrow.schema([("", of[0].type if alone else of)]).empty_table()).types
    connection.create_function(name, function, ["VARCHAR"] * task.inputs, result, type="arrow")
