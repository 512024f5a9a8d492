"""What a call of `task("a text")` takes in Python beyond the same call without Python, in C over the same Rust.

usage: python_call.py --edge-export PATH --edge-patch PATH [--runs N]
(pip install numpy safetensors; cc; cargo build --workspace, whose libraries are beside these programs)

The encoder is small, so that its time does not hide that of the call, and both read the answer's label and score. Each figure is the median
of batches of 200 calls, in turns, in time of the processor, so that a busy machine changes little. More than --most microseconds
beyond C fail.
"""

import argparse
import ctypes
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import random_encoder

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALLS, TEXT = 200, "the film was very good"
# A loop of the program that Python does not enter between the calls.
LOOP = """
#include "edge_run.h"
static edge_run_encoder *encoder;
static edge_run_task *task;
int prepare(const char *bundle, const char *patch) {
    return edge_run_open(bundle, NULL, &encoder) || edge_run_attach(encoder, patch, &task);
}
double calls(const char *text, int count) {
    double sum = 0;
    for (int at = 0; at < count; at++) {
        edge_run_request request = { task, text, EDGE_RUN_NUL_TERMINATED, NULL, 0 };
        edge_run_answers *answers;
        if (edge_run_predict(encoder, &request, 1, &answers)) return -1;
        size_t bytes;
        const edge_run_answer *answer = edge_run_answer_at(answers, 0);
        if (!edge_run_answer_label(answer, &bytes)) return -1;
        sum += edge_run_answer_score(answer);
        edge_run_answers_free(answers);
    }
    return sum;
}
"""


def main(arguments, home):
    built = pathlib.Path(arguments.edge_patch).parent
    sys.path.append(str(ROOT / "runtime/python/tests"))
    import package
    package.install(built / "libedge_run_python.so")
    import edge_run

    random_encoder.main("small-bert", home / "checkpoint")
    subprocess.run([arguments.edge_export, home / "checkpoint", "-o", home / "bundle"], check=True, stdout=subprocess.DEVNULL)
    edge_run.train(str(home / "bundle"), ["good", "bad"] * 8, [1, 0] * 8, home / "mood.bias", slots="frozen",
                   task={"max_length": 40}, progress=False)
    (home / "loop.c").write_text(LOOP)
    # By the names under which it is installed.
    for name in ("libedge_run.so", "libedge_run.so.1"):
        (home / name).symlink_to(built / "libedge_run_c.so")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-I", ROOT / "runtime/capi/include", home / "loop.c", "-o", home / "loop.so",
                    f"-L{home}", f"-Wl,-rpath,{home}", "-ledge_run"], check=True)
    loop = ctypes.CDLL(str(home / "loop.so"))
    loop.calls.restype = ctypes.c_double
    assert loop.prepare(os.fsencode(home / "bundle"), os.fsencode(home / "mood.bias")) == 0
    encoder = edge_run.Encoder(home / "bundle")
    task = encoder.attach(home / "mood.bias")

    def in_c():
        return loop.calls(TEXT.encode(), CALLS)

    def in_python():
        total = 0.0
        for _ in range(CALLS):
            answer = task(TEXT)
            answer["label"]
            total += answer["score"]
        return total

    times = {"C": [], "Python": []}
    for _ in range(arguments.runs):
        sums = []
        for name, work in [("C", in_c), ("Python", in_python)]:
            start = time.thread_time()
            sums.append(work())
            times[name].append((time.thread_time() - start) / CALLS * 1e6)
        assert abs(sums[0] - sums[1]) < 1e-3 * CALLS, sums
    found = {name: statistics.median(each) for name, each in times.items()}
    beyond = statistics.median(python - c for python, c in zip(times["Python"], times["C"]))
    print(f"C {found['C']:.1f} us, Python {found['Python']:.1f} us, median of the differences {beyond:.1f} us, {arguments.runs} runs")
    if beyond > arguments.most:
        sys.exit(f"expected at most {arguments.most} us beyond C")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-export", required=True, type=os.path.abspath)
    parser.add_argument("--edge-patch", required=True, type=os.path.abspath)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--most", type=float, default=20.0)
    with tempfile.TemporaryDirectory() as directory:
        main(parser.parse_args(), pathlib.Path(directory))
