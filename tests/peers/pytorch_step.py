"""Times edge-run's gradients beside PyTorch's on one thread: forward and backward of a batch, gradients of biases only.

usage: pytorch_step.py BUNDLE CHECKPOINT [--edge-run PATH] [--rounds N] [--batch N] [--lengths N,...]
(pip install torch transformers; cargo build --release --bin edge-run)

CHECKPOINT is the directory that BUNDLE was exported from. Rounds alternate between the two programs. A figure is the median
over the rounds of the ratio of median times; below 1, edge-run is faster. Both run the same token ids. The optimizer's time
is not included.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
from transformers import AutoModel


def median_of(run, seconds):
    times, begun = [], time.perf_counter()
    run()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        at = time.perf_counter()
        run()
        times.append((time.perf_counter() - at) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("checkpoint")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], default=[32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(arguments.checkpoint).train(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(".bias")
    vocabulary = model.config.vocab_size
    lengths = ",".join(str(length) for length in arguments.lengths)
    command = [arguments.edge_run, "bench", arguments.bundle, "--json", "--gradients", "--lengths", lengths]
    command += ["--batch", str(arguments.batch), "--seconds", str(arguments.seconds)]
    rounds = []
    for _ in range(arguments.rounds):
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        theirs = []
        for length in arguments.lengths:
            ids = torch.tensor([[(7919 * at + 1) % vocabulary for at in range(length)]] * arguments.batch)

            def step():
                model.zero_grad()
                hidden = model(input_ids=ids).last_hidden_state
                (0.5 * hidden.square().sum()).backward()

            theirs.append(median_of(step, arguments.seconds))
        rounds.append(([length["gradient_ms"] for length in found["lengths"]], theirs))
    print(f"{'tokens':>6} {'ratio':>6} {'PyTorch':>11} {'edge-run':>11}   a step of {arguments.batch} texts")
    for at, length in enumerate(arguments.lengths):
        ratio, theirs, ours = (
            statistics.median(values)
            for values in ([a[at] / b[at] for a, b in rounds], [b[at] for _, b in rounds], [a[at] for a, _ in rounds])
        )
        print(f"{length:6} {ratio:6.2f} {theirs:8.1f} ms {ours:8.1f} ms")


if __name__ == "__main__":
    main()
