"""Uses edge-serve's page in headless Chromium as a person would: tasks of six kinds answer, and the page shows a swapped file.

usage: browser.py [--edge-serve PATH] [--bundle DIR] [--patches DIR] [--screenshot FILE]
(apt-get install chromium chromium-driver; cargo build --release --bin edge-serve --bin edge-patch)

WebDriver is spoken as plain HTTP, so nothing else has to be installed. Exits with 1 at the first thing that is not so.
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from store import bundle_of

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=430,932"]}
        capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self.base += "/session/" + self.call("POST", "/session", capabilities)["sessionId"]

    def call(self, method, path, body=None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector, text):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        self.call("POST", f"/element/{found}/value", {"text": text})

    def wait(self, what, script, *arguments):
        for _ in range(200):
            found = self.run(script, *arguments)
            if found:
                print(f"ok    {what}", flush=True)
                return found
            time.sleep(0.1)
        sys.exit(f"{what} was not seen; the page says: {self.run('return document.body.innerText')}")


def check(what, holds, found):
    if not holds:
        sys.exit(f"{what}: found {found}")
    print(f"ok    {what}", flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def wait_for(port, process):
    for _ in range(400):
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} stopped")
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args[0]} does not listen")


def put(patch, patches, name):
    shutil.copy(patch, os.path.join(patches, ".new"))
    os.rename(os.path.join(patches, ".new"), os.path.join(patches, name))


# Tasks that the library does not have, and what the first of them is trained on.
KINDS = {
    "topics": {"kind": "multi-label", "labels": ["music", "praise", "sport"]},
    "vector": {"kind": "embedding"},
}
TOPICS = """sentence\tlabel
A man is playing a guitar, and it is wonderful.\tmusic,praise
The band plays a song.\tmusic
What a joy!\tpraise
The team won the game.\tsport
"""

ANSWERS = "return [...document.querySelectorAll('#answers li')].map(item => item.dataset.task).join()"
VERSION = "return document.querySelector('#answers [data-task=sst2] .facts')?.lastChild.textContent"

POS = "document.querySelector('#answers [data-task=pos]')"
MARKS = f"return [...({POS}?.querySelectorAll('mark') ?? [])].map(mark => mark.firstChild.textContent)"
# A text with a character that UTF-16 writes as two.
ENTITIES = "The 🎸 man is playing the old guitar in Berlin."


def make_kinds(edge_patch, encoder, home):
    """Makes a patch of each of KINDS in the directory `home`."""
    file = lambda name: os.path.join(home, name)
    for name, task in KINDS.items():
        with open(file(f"{name}.json"), "w") as out:
            json.dump({"name": name, "pooling": "mean", "max_length": 64, **task}, out)
    with open(file("topics.tsv"), "w") as out:
        out.write(TOPICS)
    data = ["--train", file("topics.tsv"), "--dev", file("topics.tsv"), "--epochs", "30", "--batch", "4", "--lr", "1e-2"]
    for verb, name, more in [("train", "topics", data), ("embed", "vector", [])]:
        command = [edge_patch, verb, *encoder, "--task", file(f"{name}.json"), *more, "-o", file(f"{name}.bias")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def look(browser, url, library, patches, home, screenshot):
    browser.call("POST", "/url", {"url": url})
    browser.wait("three tasks to tick", "return document.querySelectorAll('#tasks input').length === 3")
    browser.type("#text", "A man is playing a guitar, and it is wonderful.")
    browser.wait("an answer of the task on one text", f"{ANSWERS} === 'sst2'")
    browser.type("#second", "Someone plays the guitar.")
    browser.wait("answers of three tasks", f"{ANSWERS} === 'mrpc,sst2,stsb'")
    browser.wait("a bar of the right width", "return document.querySelector('[role=meter] i').offsetWidth > 0")
    for name in KINDS:
        put(os.path.join(home, f"{name}.bias"), patches, f"{name}.bias")
    browser.wait("answers of two more kinds", f"{ANSWERS} === 'mrpc,sst2,stsb,topics,vector'")
    shown = "return document.querySelector('#answers [data-task=%s]')?.innerText"
    topics = browser.wait("a task of several labels", shown % "topics")
    # The likelier one comes first.
    named = topics.splitlines()[0].removeprefix("topics ").split(", ")
    check("the labels that hold are named", sorted(named) == ["music", "praise"], topics)
    bars = "return [...document.querySelectorAll('#answers [data-task=topics] [role=meter]')].map(bar => bar.ariaLabel).join()"
    bars = browser.run(bars)
    due = ["topics: music", "topics: praise", "topics: sport, not given"]
    check("every label has a bar", sorted(bars.split(",")) == sorted(",".join(due).split(",")), bars)
    vector = browser.run(shown % "vector")
    check("a vector is shown by its size and first values", re.search(r"384 values: (-?\d\.\d{4} ){4}\.\.\.", vector), vector)
    fits = "return document.documentElement.scrollWidth <= window.innerWidth"
    browser.wait("a page as wide as a phone's window", fits)
    with open(screenshot, "wb") as out:
        out.write(base64.b64decode(browser.call("GET", "/screenshot")))
    print(f"      {screenshot}", flush=True)

    put(os.path.join(library, "pos.bias"), patches, "pos.bias")
    browser.run("document.querySelector('#text').value = arguments[0]", ENTITIES)
    tags = browser.wait("tags of words", shown % "pos")
    check("without the box ticked, nothing is marked", "DET" in tags and not browser.run(MARKS), tags)
    browser.run("document.querySelector('#entities').click()")
    marks = browser.wait("entities", f"const found = (() => {{ {MARKS} }})(); return found.length && found")
    # A character beyond UTF-16's first 65,536 comes before most of them.
    check("entities are parts of the text, in order", re.search(".*".join(map(re.escape, marks)), ENTITIES), marks)
    whole = browser.run(f"const p = {POS}.querySelector('mark').parentElement.cloneNode(true);"
                        " p.querySelectorAll('small').forEach(label => label.previousSibling.remove() ?? label.remove());"
                        " return p.textContent")
    check("the text around them stays", whole == ENTITIES, whole)
    browser.run("document.querySelector('#entities').click()")
    os.remove(os.path.join(patches, "pos.bias"))
    browser.wait("a page without a task that tags", "return document.querySelector('#grouping').hidden")

    before = browser.run(VERSION)
    put(os.path.join(home, "small.bias"), patches, "sst2.bias")
    browser.wait("a swapped file", f"const now = (() => {{ {VERSION} }})(); return now && now !== arguments[0]", before)
    for name in KINDS:
        os.remove(os.path.join(patches, f"{name}.bias"))
    os.remove(os.path.join(patches, "mrpc.bias"))
    browser.wait("a removed file", f"{ANSWERS} === 'sst2,stsb'")
    with open(os.path.join(patches, "bad.bias"), "wb") as out:
        out.write(b"BIASPTCH")
    browser.wait("a refused file", "return document.querySelector('#refused').innerText.includes('bad.bias')")
    put(os.path.join(library, "mrpc.bias"), patches, "mrpc.bias")
    browser.wait("a file that came back", f"{ANSWERS} === 'mrpc,sst2,stsb'")
    browser.run("document.querySelector('[data-task=stsb]').click()")
    browser.wait("a task that is not ticked", f"{ANSWERS} === 'mrpc,sst2'")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-serve", default="target/release/edge-serve")
    parser.add_argument("--edge-patch", default="target/release/edge-patch")
    parser.add_argument("--bundle", help="the encoder's bundle, if it is not in the store")
    parser.add_argument("--patches", default="patches/library")
    parser.add_argument("--screenshot", default="target/edge-serve.png")
    arguments = parser.parse_args()
    port, driver_port = free_port(), free_port()
    processes = []
    with tempfile.TemporaryDirectory() as home:
        patches, small = os.path.join(home, "patches"), os.path.join(home, "small.bias")
        os.mkdir(patches)
        for name in ["sst2", "mrpc", "stsb"]:
            put(os.path.join(arguments.patches, f"{name}.bias"), patches, f"{name}.bias")
        bundle = ["--bundle", arguments.bundle] if arguments.bundle else []
        encoder = ["--encoder", arguments.bundle] if arguments.bundle else []
        made = arguments.bundle or bundle_of(os.path.join(arguments.patches, "sst2.bias"), arguments.edge_patch)
        make_kinds(arguments.edge_patch, ["--encoder", made], home)
        convert = ["convert", os.path.join(patches, "sst2.bias"), "--encoding", "i2", "-o", small]
        subprocess.run([arguments.edge_patch, *convert, *encoder], check=True, stdout=subprocess.DEVNULL)
        try:
            listen = ["--listen", f"127.0.0.1:{port}"]
            processes.append(subprocess.Popen([arguments.edge_serve, "--patches", patches, *listen, *bundle]))
            processes.append(subprocess.Popen(["chromedriver", f"--port={driver_port}", "--log-level=OFF"]))
            for at, process in zip([port, driver_port], processes):
                wait_for(at, process)
            browser = Browser(driver_port)
            try:
                look(browser, f"http://127.0.0.1:{port}/", arguments.patches, patches, home, arguments.screenshot)
            finally:
                browser.call("DELETE", "")
        finally:
            for process in processes:
                process.terminate()
                process.wait(15)


if __name__ == "__main__":
    main()
