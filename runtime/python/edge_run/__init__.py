"""One frozen encoder, any number of tasks: each a patch of a few kilobytes."""

from ._edge_run import Encoder, Error, Task, from_peft, to_peft, train

__all__ = ["Encoder", "Error", "Task", "from_peft", "to_peft", "train"]
