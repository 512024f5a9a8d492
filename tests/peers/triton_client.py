"""Calls edge-serve with Triton's own client: metadata, inference as JSON and as bytes, the repository, errors.

usage: triton_client.py [--edge-serve PATH] [--edge-run PATH] [--bundle DIR] [--patches DIR]
(pip install tritonclient[http]; cargo build --release --bin edge-serve --bin edge-run)

Answers are compared with edge-run's on the same texts. Exits with 1 at the first thing that is not as it should be.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

TEXTS = ["a joy from the first scene to the last", "two hours i will never get back", "flat , loud and far too long"]
PAIR = ("A man is playing a guitar.", "A man plays the guitar.")


def check(what, holds, found=""):
    print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
    if not holds:
        sys.exit(f"{what}: found {found}")


def refused(what, call, *parts):
    try:
        found = call()
    except InferenceServerException as error:
        message = error.message()
        return check(what, all(part in message for part in parts), message)
    check(what, False, found)


def texts_input(name, texts, binary):
    made = http.InferInput(name, [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    return made


def edge_run(arguments, patch, lines):
    command = [arguments.edge_run, "-p", patch, "-o", "jsonl", "--logits"]
    if arguments.bundle:
        command += ["--bundle", arguments.bundle]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def talk(client, arguments, patches):
    check("live", client.is_server_live())
    check("ready", client.is_server_ready())
    server = client.get_server_metadata()
    check("server metadata", server["name"] == "edge-serve" and "binary_tensor_data" in server["extensions"], server)
    for name in ["sst2", "mrpc", "stsb"]:
        check(f"{name} is ready", client.is_model_ready(name))
    model = client.get_model_metadata("mrpc")
    check("model metadata", [i["name"] for i in model["inputs"]] == ["text", "text_pair"], model)
    check("a model that is not there is not ready", not client.is_model_ready("nothing"))

    due = edge_run(arguments, os.path.join(patches, "sst2.bias"), TEXTS)
    for binary in [False, True]:
        way = "bytes" if binary else "JSON"
        outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ["label", "score", "logits"]]
        found = client.infer("sst2", [texts_input("text", TEXTS, binary)], outputs=outputs, request_id="7")
        labels = [label.decode() if isinstance(label, bytes) else label for label in found.as_numpy("label")]
        check(f"labels as {way}", labels == [row["label"] for row in due], labels)
        scores, logits = found.as_numpy("score"), found.as_numpy("logits")
        check(f"scores as {way}", np.allclose(scores, [row["score"] for row in due], atol=1e-5), scores)
        check(f"logits as {way}", np.allclose(logits, [row["logits"] for row in due], atol=1e-4), logits)
        check(f"shape of logits as {way}", logits.shape == (3, 2), logits.shape)
        check(f"request id as {way}", found.get_response()["id"] == "7", found.get_response())
    version = client.get_model_metadata("sst2")["versions"][0]
    found = client.infer("sst2", [texts_input("text", TEXTS, True)], model_version=version)
    check("all outputs of a version", found.as_numpy("logits").shape == (3, 2))

    due = edge_run(arguments, os.path.join(patches, "stsb.bias"), ["\t".join(PAIR)])
    pair = [texts_input("text", [PAIR[0]], True), texts_input("text_pair", [PAIR[1]], False)]
    value = client.infer("stsb", pair).as_numpy("value")
    check("a pair, one text as bytes and one as JSON", np.allclose(value, [due[0]["value"]], atol=1e-4), value)

    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    check("index", index == {"mrpc": "READY", "sst2": "READY", "stsb": "READY"}, index)
    client.unload_model("sst2")
    check("unload", not client.is_model_ready("sst2"))
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    check("index after unload", index["sst2"] == "UNAVAILABLE", index)
    sst2 = [texts_input("text", TEXTS, True)]
    refused("inference on an unloaded model", lambda: client.infer("sst2", sst2), "unloaded on request; POST /v2/repository/models/sst2/load")
    client.load_model("sst2")
    check("load", client.is_model_ready("sst2"))

    refused("metadata of nothing", lambda: client.get_model_metadata("nothing"), "no task")
    refused("load of nothing", lambda: client.load_model("../../etc/passwd"), "no such address")
    refused("load of a file of the request's", lambda: client.load_model("sst2", config="{}"), "parameters: expected none")
    refused("one text where two are due", lambda: client.infer("mrpc", sst2), "inputs: expected text and text_pair")
    other = http.InferInput("text", [1], "FP32")
    other.set_data_from_numpy(np.zeros(1, dtype=np.float32))
    refused("numbers where texts are due", lambda: client.infer("sst2", [other]), "datatype: expected BYTES")
    refused("another version", lambda: client.infer("sst2", sst2, model_version="1"), "expected version")
    unknown = [http.InferRequestedOutput("colour")]
    refused("an output that is not there", lambda: client.infer("sst2", sst2, outputs=unknown), "label, score, logits")
    refused("an empty text", lambda: client.infer("sst2", [texts_input("text", [""], True)]), "text 1: empty text")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-serve", default="target/release/edge-serve")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--bundle", help="the encoder's bundle, if it is not in the store")
    parser.add_argument("--patches", default="patches/library")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = "127.0.0.1:%d" % free.getsockname()[1]
    with tempfile.TemporaryDirectory() as patches:
        for name in ["sst2", "mrpc", "stsb"]:
            shutil.copy(os.path.join(arguments.patches, f"{name}.bias"), patches)
        command = [arguments.edge_serve, "--patches", patches, "--listen", address]
        server = subprocess.Popen(command + (["--bundle", arguments.bundle] if arguments.bundle else []))
        try:
            host, port = address.split(":")
            for _ in range(400):
                if server.poll() is not None:
                    sys.exit("edge-serve stopped")
                try:
                    socket.create_connection((host, int(port))).close()
                    break
                except OSError:
                    time.sleep(0.05)
            with http.InferenceServerClient(address) as client:
                talk(client, arguments, patches)
        finally:
            server.terminate()
            check("stops when told", server.wait(15) == 0, server.returncode)


if __name__ == "__main__":
    main()
