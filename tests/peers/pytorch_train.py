"""Trains biases and a head in PyTorch as `edge-patch train` does. Prints the dev metric after every epoch.

usage: pytorch_train.py CHECKPOINT TASK.json TRAIN DEV [--test FILE] [--metric NAME] [--lr 3e-3] [--epochs 5] [--seeds 3]
                        [--full | --lora RANK | --houlsby SIZE | --diff-pruning FRACTION]
(pip install torch transformers scipy; peft for --lora)

CHECKPOINT is the directory that the bundle was exported from. The task and the files are those of edge-patch: TSV with a
header, or for spans JSONL with question, context, answer_start and answer. AdamW without weight decay, 6 % warmup, linear
decay, gradients clipped to norm 1, 16 texts of similar length in a step, no dropout. Differences from edge-patch: the
engine, the order of the texts, and that a context longer than max_length is cut, not read in windows. --full trains every
parameter. --lora trains PEFT's LoRA on query and value in the place of biases, as `--slots lora:q+v@RANK` does; its alpha is RANK.
--houlsby and --diff-pruning are in paper_methods.py. --diff-pruning trains for the epochs twice: before values are pruned, and after.

At the end it prints the mean and standard deviation over the seeds, of the last epoch and of the one that is best on DEV by --metric,
also on the test FILE.
"""

import argparse
import collections
import json
import random
import re
import statistics
import string
import time

import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import paper_methods

BATCH = 16


def read_rows(path):
    """Rows of a TSV with a header or of JSONL as dictionaries."""
    with open(path, encoding="utf-8") as lines:
        if path.endswith(".jsonl"):
            return [json.loads(line) for line in lines if line.strip()]
        names = next(lines).rstrip("\n").split("\t")
        return [dict(zip(names, line.rstrip("\n").split("\t"))) for line in lines if line.strip("\n")]


class Text:
    """A tokenized text: ids, types, what is due, and for spans where its tokens lie."""

    def __init__(self, task, tokenizer, row):
        longest = task.get("max_length", 128)
        kind = task["kind"]
        if kind == "span":
            found = tokenizer(
                row["question"], row["context"], truncation="only_second", max_length=longest, return_offsets_mapping=True
            )
            second = [at for at, part in enumerate(found.sequence_ids(0)) if part == 1]
            self.places, self.second, self.row = found["offset_mapping"], second, row
            first, last = row["answer_start"], row["answer_start"] + len(row["answer"])
            begins = [at for at in second if self.places[at][0] <= first < self.places[at][1]]
            ends = [at for at in second if self.places[at][0] < last <= self.places[at][1]]
            self.due = (begins[0], ends[-1]) if begins and ends else None
        elif kind == "tagging":
            found = tokenizer(row["tokens"].split(" "), is_split_into_words=True, truncation=True, max_length=longest)
            words = found.word_ids(0)
            firsts = [at for at, word in enumerate(words) if word is not None and words[at - 1] != word]
            labels = row["labels"].split(" ")
            self.due = [(at, task["labels"].index(labels[words[at]])) for at in firsts]
            self.words = len(labels)
        else:
            pair = row.get("sentence2")
            found = tokenizer(row.get("sentence1", row.get("sentence")), pair, truncation=True, max_length=longest)
            names = task.get("labels")
            # GLUE writes the number of a label, others its name.
            label = row["label"]
            self.due = float(label) if names is None else names.index(label) if label in names else int(label)
        self.ids = found["input_ids"]
        self.types = found.get("token_type_ids") or [0] * len(self.ids)


def padded(texts):
    length = max(len(text.ids) for text in texts)
    fill = lambda lists: torch.tensor([numbers + [0] * (length - len(numbers)) for numbers in lists])
    mask = fill([[1] * len(text.ids) for text in texts])
    return fill([text.ids for text in texts]), fill([text.types for text in texts]), mask


class Training:
    def __init__(self, arguments, seed):
        random.seed(seed)
        torch.manual_seed(seed)
        self.task = json.load(open(arguments.task, encoding="utf-8"))
        self.kind, self.pooling = self.task["kind"], self.task.get("pooling", "cls")
        self.encoder = AutoModel.from_pretrained(arguments.checkpoint, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        outputs = {"regression": 1, "span": 2}.get(self.kind) or len(self.task["labels"])
        self.head = torch.nn.Linear(self.encoder.config.hidden_size, outputs)
        torch.nn.init.normal_(self.head.weight, std=0.02)
        torch.nn.init.zeros_(self.head.bias)
        self.method = None
        if arguments.houlsby is not None:
            self.method = paper_methods.Houlsby(self.encoder, arguments.houlsby)
        elif arguments.diff_pruning is not None:
            self.method = paper_methods.DiffPruning(self.encoder, arguments.diff_pruning)
        elif arguments.lora is not None:
            import peft

            config = peft.LoraConfig(r=arguments.lora, lora_alpha=arguments.lora, target_modules=["query", "value"])
            self.encoder = peft.get_peft_model(self.encoder, config)
        else:
            for name, parameter in self.encoder.named_parameters():
                parameter.requires_grad = arguments.full or name.endswith(".bias")
        self.training = False

    def values(self):
        """How many values a task has beside its head."""
        if self.method:
            return self.method.values()
        return sum(parameter.numel() for parameter in self.encoder.parameters() if parameter.requires_grad)

    def groups(self, rate):
        """What is trained, for an optimizer."""
        if self.method:
            groups = self.method.groups(rate)
        else:
            trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
            groups = [{"params": trained, "lr": rate}]
        return [*groups, {"params": list(self.head.parameters()), "lr": rate}]

    def outputs(self, texts):
        ids, types, mask = padded(texts)
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        found = self.method.run(self.encoder, inputs, self.training) if self.method else self.encoder(**inputs)
        tokens = found.last_hidden_state
        if self.kind in ("span", "tagging"):
            return self.head(tokens)
        if self.pooling == "mean":
            return self.head((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return self.head(tokens[:, 0] if self.pooling == "cls" else found.pooler_output)

    def loss(self, texts):
        outputs = self.outputs(texts)
        if self.kind == "regression":
            return functional.mse_loss(outputs[:, 0], torch.tensor([text.due for text in texts]))
        if self.kind == "classification":
            return functional.cross_entropy(outputs, torch.tensor([text.due for text in texts]))
        losses = []
        for text, logits in zip(texts, outputs):
            if self.kind == "tagging":
                at, due = (list(numbers) for numbers in zip(*text.due))
                losses.append(functional.cross_entropy(logits[at], torch.tensor(due)))
            elif text.due is not None:
                inside = logits[text.second]
                for side, due in enumerate(text.due):
                    due = torch.tensor(text.second.index(due))
                    losses.append(functional.cross_entropy(inside[:, side], due) / 2)
        # Texts whose answers were cut off teach nothing; a head's product of nothing has a gradient all the same.
        return (sum(losses) + 0.0 * outputs.sum()) / len(texts)

    def metric(self, texts):
        found, self.training = {}, False
        by_length = sorted(range(len(texts)), key=lambda at: len(texts[at].ids))
        with torch.no_grad():
            for first in range(0, len(texts), 64):
                numbers = by_length[first : first + 64]
                for number, outputs in zip(numbers, self.outputs([texts[at] for at in numbers])):
                    found[number] = outputs
        outputs = [found[at] for at in range(len(texts))]
        if self.kind == "regression":
            from scipy.stats import spearmanr

            return {"Spearman": spearmanr([float(o[0]) for o in outputs], [text.due for text in texts]).statistic}
        if self.kind == "span":
            scores = [answer_scores(self.answer(text, o), text.row["answer"]) for text, o in zip(texts, outputs)]
            return {"exact": statistics.mean(s[0] for s in scores), "F1": statistics.mean(s[1] for s in scores)}
        if self.kind == "tagging":
            right = sum(int(o[at].argmax()) == due for text, o in zip(texts, outputs) for at, due in text.due)
            return {"accuracy": right / sum(text.words for text in texts)}
        best = [int(o.argmax()) for o in outputs]
        due = [text.due for text in texts]
        scores = {"accuracy": sum(a == b for a, b in zip(best, due)) / len(due)}
        if len(self.task["labels"]) == 2:
            hits = sum(a == b == 1 for a, b in zip(best, due))
            scores["F1"] = 2 * hits / max(1, sum(best) + sum(due))
            count, answered, given = len(due), sum(best), sum(due)
            spread = answered * (count - answered) * given * (count - given)
            scores["Matthews"] = (count * hits - answered * given) / spread**0.5 if spread else 0.0
        return scores

    def answer(self, text, logits):
        inside = logits[text.second]
        sums = inside[:, None, 0] + inside[None, :, 1]
        allowed = torch.ones_like(sums).triu().tril(self.task.get("max_answer_length", 30) - 1).bool()
        first, last = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), len(text.second))
        return text.row["context"][text.places[text.second[first]][0] : text.places[text.second[last]][1]]


def answer_scores(found, due):
    """Exact match and F1 as SQuAD's script normalizes answers."""

    def words(text):
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    found, due = words(found), words(due)
    common = sum((collections.Counter(found) & collections.Counter(due)).values())
    return float(found == due), 2 * common / (len(found) + len(due)) if common else float(found == due)


def batches(texts):
    """Batches of texts of like length, in random order."""
    order = random.sample(range(len(texts)), len(texts))
    found = []
    for first in range(0, len(order), 50 * BATCH):
        near = sorted(order[first : first + 50 * BATCH], key=lambda at: len(texts[at].ids))
        found += [near[at : at + BATCH] for at in range(0, len(near), BATCH)]
    random.shuffle(found)
    return found


def main():
    parser = argparse.ArgumentParser()
    for name in ("checkpoint", "task", "train", "dev"):
        parser.add_argument(name)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test", metavar="FILE", help="also print the metric on these labelled texts, which choose nothing")
    parser.add_argument("--metric", metavar="NAME", help="the metric that the best epoch is chosen by [default: the first]")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--full", action="store_true")
    what.add_argument("--lora", type=int, metavar="RANK")
    what.add_argument("--houlsby", type=int, metavar="SIZE", help="adapters of so many inner values, two a layer")
    what.add_argument("--diff-pruning", type=float, metavar="FRACTION", help="a difference to so many of the weights, such as 0.005")
    arguments = parser.parse_args()
    if arguments.lora is not None and arguments.lora < 1:
        parser.error(f"--lora: expected a rank of 1 or more, found {arguments.lora}")
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    parts = {"dev": arguments.dev, **({"test": arguments.test} if arguments.test else {})}
    ends = collections.defaultdict(list)
    for seed in range(1, arguments.seeds + 1):
        training = Training(arguments, seed)
        read = lambda path: [Text(training.task, tokenizer, row) for row in read_rows(path)]
        train, parts_read = read(arguments.train), {part: read(path) for part, path in parts.items()}
        names = list(training.metric(parts_read["dev"][:64]))
        chosen = arguments.metric or names[0]
        if chosen not in names:
            parser.error(f"--metric: expected one of {', '.join(names)}, found {chosen}")
        begun, epochs = time.time(), []
        phases = training.method.phases if training.method else 1
        for phase in range(phases):
            if phase > 0:
                # What was best before is not what is stored.
                training.method.prune()
                epochs.clear()
            for loss in train_phase(training, train, arguments):
                scores = {part: training.metric(texts) for part, texts in parts_read.items()}
                epochs.append(scores)
                shown = "  ".join(
                    f"{part} " + " ".join(f"{name} {100 * score:.2f}" for name, score in found.items()) for part, found in scores.items()
                )
                print(f"seed {seed}  epoch {len(epochs)}  loss {loss:.4f}  {shown}  {time.time() - begun:.0f} s", flush=True)
        best = max(epochs, key=lambda scores: scores["dev"][chosen])
        for place, scores in (("at the end", epochs[-1]), ("at the epoch best on dev", best)):
            for part, found in scores.items():
                for name, score in found.items():
                    ends[place, part, name].append(100 * score)
    print(f"{training.values()} values a task beside its head")
    for (place, part, name), found in ends.items():
        deviation = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        print(f"{name} on {part}: {statistics.mean(found):.2f}{deviation} over {len(found)} seeds, {place}")


def train_phase(training, train, arguments):
    """Trains for some epochs; gives the loss after each."""
    groups = training.groups(arguments.lr)
    trained = [parameter for group in groups for parameter in group["params"]]
    steps = arguments.epochs * -(-len(train) // BATCH)
    adam = torch.optim.AdamW(groups, weight_decay=0.0)
    decay = lambda step: min(1, (step + 1) / max(1, 0.06 * steps)) * (steps - step) / steps
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, decay)
    for _ in range(arguments.epochs):
        total = 0.0
        for numbers in batches(train):
            training.training = True
            loss = training.loss([train[at] for at in numbers])
            added = training.method.added_loss() if training.method else 0.0
            (loss + added).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            adam.step()
            adam.zero_grad()
            schedule.step()
            total += loss.item() * len(numbers)
        yield total / len(train)


if __name__ == "__main__":
    main()
