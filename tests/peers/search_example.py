"""Runs runtime/examples/search.py and checks what it finds.

usage: search_example.py --edge-run PATH
(pip install numpy usearch; the encoder of the shipped patches in the store)
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "The router restarts when its firmware is old: update it in the settings.",
    "Bread rises because yeast makes gas of sugar.",
    "The train to the coast leaves at nine from platform four.",
    "A bicycle chain has to be oiled every two hundred kilometres.",
    "Plants in the shade need less water than those in the sun.",
]
QUERIES = [("why does my wifi box reboot", 1), ("when can I go to the sea by rail", 3), ("how often do I lubricate my bike", 4)]

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge-run", required=True)
    environment = os.environ | {"EDGE_RUN": parser.parse_args().edge_run}
    with tempfile.TemporaryDirectory() as directory:
        documents, index = pathlib.Path(directory, "documents.txt"), pathlib.Path(directory, "documents.usearch")
        documents.write_text("\n".join(DOCUMENTS) + "\n", encoding="utf-8")

        def example(*arguments):
            command = [sys.executable, ROOT / "runtime/examples/search.py", *arguments]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

        patch = ROOT / "patches/library/embed.bias"
        print(example("index", patch, documents, index), end="")
        for query, due in QUERIES:
            found = example("ask", patch, documents, index, query)
            print(f"{query}:\n{found}", end="")
            if int(found.split()[1]) != due:
                sys.exit(f"expected line {due} first")
