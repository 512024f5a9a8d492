"""The progress of a training as a bar of tqdm, in a terminal or a notebook.

In: events of `edge_run.train`. Out: a bar of all steps, with their rate, the time left and the loss, and a line for each epoch.
"""

from typing import Any, Mapping, Optional

from tqdm import tqdm


class Bar:
    """The `progress` of `edge_run.train`: `train(..., progress=Bar())`. `options` are those of `tqdm.tqdm`, such as `file`."""

    def __init__(self, **options: Any) -> None:
        self.options = {"unit": "step", **options}
        self.bar: Optional[Any] = None

    def __call__(self, event: "Mapping[str, Any]") -> None:
        kind = event["event"]
        if kind == "run":
            self._run(event)
        elif kind == "step" and self.bar is not None:
            self._reach(event["step"])
            loss = event["loss"]
            self.bar.set_postfix({} if loss is None else {"loss": f"{loss:.3f}"}, refresh=False)
        elif kind == "epoch" and self.bar is not None:
            loss, score = event["loss"], f"dev {event['metric']} {event['dev']:.4f}"
            self.bar.write(f"{self.run}epoch {event['epoch']}: training loss {loss:.4f}, {score}", file=self.options.get("file"))
            if self.bar.n >= self.bar.total:
                self.close()

    def close(self) -> None:
        """Ends the bar of a training that ended before its last step, as with `patience`. The next training does so too."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _run(self, event: "Mapping[str, Any]") -> None:
        self.before = (event["run"] - 1) * event["steps"]
        total, done = event["of"] * event["steps"], self.before + event["step"]
        if self.bar is None or event["run"] == 1:
            self.close()
            # Steps of before an interruption are done, and count for no time.
            self.bar = tqdm(total=total, initial=done, **self.options)
        self._reach(event["step"])
        self.run = f"rate {event['learning_rate']:g}, seed {event['seed']}, " if event["of"] > 1 else ""

    def _reach(self, step: int) -> None:
        assert self.bar is not None
        self.bar.update(self.before + step - self.bar.n)
