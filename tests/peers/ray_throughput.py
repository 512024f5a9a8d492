"""Texts a second of edge_run.ray with one worker and with two.

usage: ray_throughput.py MODULE [--texts N] [--rounds N]
(pip install numpy 'ray[data]'; cargo build --release --workspace --lib; MODULE is target/release/libedge_run_python.so; the encoder of the
shipped patches in the store; two processors that do nothing else)

Each text is 8 words and a number, so that none is answered from another. Workers have started and have answered some texts before the
time is taken; the labels of one and of two workers are compared.
"""

import argparse
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "runtime/python/tests"))
import cluster
import package

PATCH = ROOT / "patches/library/sst2.bias"
WORDS = "the film was slow but its last scene had a joy that nobody could have seen coming".split()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    package.install(arguments.module)
    # Two processors for two workers, and one to read with.
    with cluster.started(processors=3):
        import edge_run.ray
        import pyarrow
        import ray.data

        words = len(WORDS)
        texts = [" ".join([str(at), *(WORDS[at * step % words] for step in range(1, 9))]) for at in range(arguments.texts)]
        dataset = ray.data.from_arrow(pyarrow.table({"at": range(len(texts)), "text": texts})).repartition(100).materialize()

        def label(workers):
            """The labels, and how many a second came back after the first batch."""
            labels, start, before = {}, None, 0
            mapped = dataset.map_batches(
                edge_run.ray.Labeller, fn_constructor_args=([PATCH.read_bytes()],), batch_size=256, batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers))
            for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
                labels.update(zip(batch["at"].to_pylist(), batch["sst2_label"].to_pylist()))
                if start is None:
                    start, before = time.perf_counter(), len(labels)
            return labels, (len(labels) - before) / (time.perf_counter() - start)

        for _ in range(arguments.rounds):
            (alone, slow), (together, fast) = label(1), label(2)
            if alone != together or len(alone) != len(texts):
                sys.exit("expected the same labels of one worker and of two")
            print(f"{len(texts)} texts: {slow:.0f} a second with one worker, {fast:.0f} with two, {fast / slow:.2f} times as many")
