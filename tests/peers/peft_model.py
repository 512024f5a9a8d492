"""Compares the logits of a model of PEFT, in PyTorch, with those of the patch that `edge_run.from_peft` makes of it.

usage: peft_model.py MODULE --edge-export PATH
(pip install numpy peft torch transformers; MODULE is the library that cargo built, target/debug/libedge_run_python.so)

The model is BERT at the shape of all-MiniLM-L6-v2 with random weights, and LoRA of rank 8 on query and value, with biases. Adapters of
more families and settings are in tests/fixtures/peft.json.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "runtime/python/tests"))
import package

WORDS = (ROOT / "tests/fixtures/questions.txt").read_text(encoding="utf-8").lower().split()
# Logits are around 1, and computed in f32 by both.
BOUND = 1e-5


def main(edge_export, home):
    import edge_run
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.manual_seed(7)
    words = sorted({word.strip(".,?") for word in WORDS})
    (home / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(home / "vocab.txt"))
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                        intermediate_size=1536, num_labels=3)
    model = BertForSequenceClassification(config)
    model.bert.save_pretrained(home / "base")
    tokenizer.save_pretrained(home / "base")
    lora = LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "value"], bias="all")
    model = get_peft_model(model, lora).eval()
    with torch.no_grad():
        # PEFT starts where the adapter changes nothing.
        for name, values in model.named_parameters():
            if values.requires_grad:
                values += 0.05 * torch.randn_like(values)
    subprocess.run([edge_export, home / "base", "-o", home / "bundle"], check=True, stdout=subprocess.DEVNULL)
    task = {"labels": ["a", "b", "c"], "pooling": "pooler"}
    edge_run.from_peft(model, home / "bundle", home / "peft.bias", task=task)

    encoder = edge_run.Encoder(home / "bundle")
    texts = [" ".join(WORDS[first:first + length]) for first in range(0, 30, 3) for length in (1, 7, 40)]
    ours = torch.tensor([answer["logits"] for [answer] in encoder.predict(texts, [encoder.attach(home / "peft.bias")])])

    def logits():
        with torch.no_grad():
            return torch.stack([model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts])

    theirs = logits()
    with model.disable_adapter():
        without = logits()
    worst, moved = float((ours - theirs).abs().max()), float((without - theirs).abs().max())
    print(f"{len(texts)} texts, logits to {float(theirs.abs().max()):.2f}: largest difference {worst:.1e}, without LoRA {moved:.2f}")
    assert moved > 0.1 and worst < BOUND


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--edge-export", required=True)
    arguments = parser.parse_args()
    package.install(arguments.module)
    with tempfile.TemporaryDirectory() as directory:
        main(arguments.edge_export, pathlib.Path(directory))
