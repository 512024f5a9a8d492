#!/usr/bin/env python3
"""Reads a repository that edge-patch pushed with the Hub's own library.

tests/tests/hub.rs runs it against its own Hub: hub_client.py ORG/NAME FILE. The library fetches the file into its
cache, where it has to equal FILE here, and parses the card.
"""

import sys
from pathlib import Path

from huggingface_hub import ModelCard, hf_hub_download

repository, file = sys.argv[1:]
fetched = Path(hf_hub_download(repository, file))
assert fetched.read_bytes() == Path(file).read_bytes(), "the library fetched other bytes"
card = ModelCard.load(hf_hub_download(repository, "README.md")).data
found = (card.library_name, card.pipeline_tag, card.license, card.base_model, card.base_model_relation)
assert found == ("edge-run", "text-classification", "mit", "org/base", "adapter"), found
assert card.metrics == ["accuracy", "f1", "matthews_correlation"], card.metrics
scores = {result.metric_name: result.metric_value for result in card.eval_results}
assert set(scores) == {"accuracy", "macro F1", "Matthews"}, scores
assert all(result.dataset_name == "dev.tsv, 2 texts" for result in card.eval_results)
print(f"{repository}: {card.model_name}, {scores}")
