"""Calls edge-serve with the clients of others: OpenAI's for embeddings, Hugging Face's InferenceClient for embeddings as
text-embeddings-inference (TEI) gives them, and plain HTTP for ranking, of which those clients know nothing.

usage: embedding_clients.py [--edge-serve PATH] [--edge-run PATH] [--edge-patch PATH] [--bundle DIR] [--patches DIR]
(pip install openai huggingface_hub numpy; cargo build --release --bin edge-serve --bin edge-run --bin edge-patch)

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
import urllib.request

import numpy as np
import openai
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from store import bundle_of

TEXTS = ["A man is playing a guitar.", "Zwei Hunde spielen im Schnee.", "It rains. " * 400]
QUERY = "Someone plays an instrument."
PROMPTED = {"query": "Represent this sentence: "}
TOKEN = "0123456789abcdef"


def check(what, holds, found=""):
    print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)
    if not holds:
        sys.exit(f"{what}: found {found}")


def near(found, due):
    found, due = np.asarray(found, dtype=np.float32), np.asarray(due, dtype=np.float32)
    return found.shape == due.shape and np.allclose(found, due, atol=1e-5)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def refused(what, error, call, holds):
    try:
        found = call()
    except error as refusal:
        return check(what, holds(refusal), repr(refusal))
    check(what, False, found)


def edge_run(arguments, patch, lines):
    command = [arguments.edge_run, "-p", patch, "-o", "jsonl", "--logits"]
    if arguments.bundle:
        command += ["--bundle", arguments.bundle]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def talk_openai(url, due):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)
    embed = client.embeddings.create
    # The client asks for base64 and decodes it, unless it is told otherwise.
    found = embed(model="embed", input=TEXTS)
    check("OpenAI: base64", near([row.embedding for row in found.data], due))
    found_floats = embed(model="embed", input=TEXTS, encoding_format="float", user="someone")
    check("OpenAI: floats", near([row.embedding for row in found_floats.data], due))
    check("OpenAI: places", [row.index for row in found.data] == [0, 1, 2] and found.model == "embed", found.model)
    one = embed(model="embed", input=TEXTS[0])
    check("OpenAI: one text", near(one.data[0].embedding, due[0]) and len(one.data) == 1)
    check("OpenAI: tokens", 0 < one.usage.prompt_tokens < found.usage.total_tokens, found.usage)
    cut = embed(model="embed", input=TEXTS, dimensions=64)
    check("OpenAI: dimensions", near([row.embedding for row in cut.data], unit(due[:, :64])))
    models = [model.id for model in client.models.list()]
    check("OpenAI: models", models == ["embed", "prompted", "stsb"], models)
    check("OpenAI: a model", client.models.retrieve("embed").id == "embed")

    def tells(status, param, part):
        return lambda e: e.status_code == status and e.param == param and part in e.message

    bad = openai.BadRequestError
    refused("OpenAI: token ids", bad, lambda: embed(model="embed", input=[1, 2]), tells(400, "input", "token ids"))
    refused("OpenAI: too many dimensions", bad, lambda: embed(model="embed", input="a", dimensions=10**6), tells(400, "dimensions", "1 to 384"))
    refused("OpenAI: another kind", bad, lambda: embed(model="stsb", input="a"), tells(400, "model", "embed, prompted"))
    refused("OpenAI: an empty text", bad, lambda: embed(model="embed", input=["a", " "]), tells(400, "input", "text 2: empty text"))
    nothing = lambda: embed(model="nothing", input="a")
    refused("OpenAI: no model", openai.NotFoundError, nothing, lambda e: e.code == "model_not_found" and "no task" in e.message)
    stranger = client.with_options(api_key="sk-other")
    asked = lambda: stranger.embeddings.create(model="embed", input="a")
    refused("OpenAI: another token", openai.AuthenticationError, asked, lambda e: e.code == "invalid_api_key")


def talk_tei(url, due, prompted):
    def client(task):
        return InferenceClient(model=f"{url}/embed/{task}", token=TOKEN).feature_extraction

    embed = client("embed")
    found = embed(TEXTS[0])
    check("TEI: one text", near(found, due[:1]) and found.dtype == np.float32, found)
    check("TEI: several texts", near(embed(TEXTS[:2], normalize=True), due[:2]))
    raw = embed(TEXTS[0], normalize=False)
    check("TEI: not normalized", near(unit(raw), due[:1]) and abs(np.linalg.norm(raw) - 1) > 0.1, raw)
    check("TEI: cut at the right", near(embed(TEXTS[2], truncate=True, truncation_direction="Right"), due[2:]))
    found = client("prompted")(TEXTS[0], prompt_name="query")
    check("TEI: a prompt", near(found, prompted) and not near(found, due[:1]), found)
    said = lambda status, part: lambda e: e.response.status_code == status and part in e.response.json()["error"]
    refused("TEI: a text that does not fit", HfHubHTTPError, lambda: embed(TEXTS[2], truncate=False), said(413, "truncate: true"))
    refused("TEI: cut at the left", HfHubHTTPError, lambda: embed("a", truncation_direction="Left"), said(400, "expected Right"))
    refused("TEI: no such prompt", HfHubHTTPError, lambda: embed("a", prompt_name="query"), said(400, "no prompt"))
    server = InferenceClient(model=url, token=TOKEN)
    candidates = said(400, "those that answer here: embed, prompted")
    refused("TEI: no task where there are two", HfHubHTTPError, lambda: server.feature_extraction("a"), candidates)
    return server


def post(url, body):
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def talk_rerank(url, due):
    logits = np.array([row["logits"][0] for row in due])
    order = [int(at) for at in np.argsort(-logits, kind="stable")]
    scores = 1 / (1 + np.exp(-logits))
    found = post(f"{url}/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    check("TEI: ranked", [row["index"] for row in found] == order, found)
    check("TEI: scores", near([row["score"] for row in found], scores[order]), found)
    check("TEI: texts", [row["text"] for row in found] == [TEXTS[at] for at in order])
    raw = post(f"{url}/rerank/stsb", {"query": QUERY, "texts": TEXTS, "raw_scores": True})
    check("TEI: raw scores", near([row["score"] for row in raw], logits[order]), raw)
    body = {"model": "stsb", "query": QUERY, "documents": TEXTS, "top_n": 2}
    found = post(f"{url}/v1/rerank", body)["results"]
    check("Jina, Cohere: ranked", [row["index"] for row in found] == order[:2], found)
    check("Jina, Cohere: scores", near([row["relevance_score"] for row in found], scores[order[:2]]), found)


def make(edge_patch, encoder, patches, name, fields):
    task = os.path.join(patches, f"{name}.json")
    with open(task, "w") as out:
        json.dump({"name": name, "kind": "embedding", "pooling": "mean", "max_length": 256, **fields}, out)
    command = [edge_patch, "embed", "--encoder", encoder, "--task", task, "-o", os.path.join(patches, f"{name}.bias")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-serve", default="target/release/edge-serve")
    parser.add_argument("--edge-run", default="target/release/edge-run")
    parser.add_argument("--edge-patch", default="target/release/edge-patch")
    parser.add_argument("--bundle", help="the encoder's bundle, if it is not in the store")
    parser.add_argument("--patches", default="patches/library")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        patches, token = os.path.join(home, "patches"), os.path.join(home, "token")
        os.mkdir(patches)
        with open(token, "w") as out:
            out.write(TOKEN + "\n")
        shutil.copy(os.path.join(arguments.patches, "stsb.bias"), patches)
        encoder = arguments.bundle or bundle_of(os.path.join(patches, "stsb.bias"), arguments.edge_patch)
        make(arguments.edge_patch, encoder, patches, "embed", {})
        make(arguments.edge_patch, encoder, patches, "prompted", {"prompts": PROMPTED})
        vectors = lambda lines: np.array([row["embedding"] for row in edge_run(arguments, os.path.join(patches, "embed.bias"), lines)])
        due, prompted = vectors(TEXTS), vectors([PROMPTED["query"] + TEXTS[0]])
        ranks = edge_run(arguments, os.path.join(patches, "stsb.bias"), [f"{QUERY}\t{text}" for text in TEXTS])
        command = [arguments.edge_serve, "--patches", patches, "--listen", f"127.0.0.1:{port}", "--token-file", token]
        server = subprocess.Popen(command + (["--bundle", arguments.bundle] if arguments.bundle else []))
        try:
            for _ in range(400):
                if server.poll() is not None:
                    sys.exit("edge-serve stopped")
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            url = f"http://127.0.0.1:{port}"
            talk_openai(url, due)
            alone = talk_tei(url, due, prompted)
            talk_rerank(url, ranks)
            os.remove(os.path.join(patches, "prompted.bias"))
            for _ in range(100):
                if "prompted" not in [model.id for model in openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN).models.list()]:
                    break
                time.sleep(0.1)
            check("TEI: the only task, by the server's address", near(alone.feature_extraction(TEXTS[1]), due[1:2]))
        finally:
            server.terminate()
            check("stops when told", server.wait(15) == 0, server.returncode)


if __name__ == "__main__":
    main()
