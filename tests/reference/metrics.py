"""Prints the reference values of the metrics' unit tests (runtime/src/tasks/metrics/).

Run:  pip install numpy scikit-learn scipy seqeval && python metrics.py
The first two functions are those of SQuAD's official evaluation scripts; squad_2 computes what that of 2.0 does.
"""

import re
import string
from collections import Counter

import numpy as np
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as span_f1
from sklearn.metrics import (accuracy_score, f1_score, label_ranking_average_precision_score, matthews_corrcoef)


def normalize_answer(s):
    lower = s.lower()
    no_punctuation = "".join(c for c in lower if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", no_punctuation).split())


def answer_f1(prediction, gold):
    found, due = normalize_answer(prediction).split(), normalize_answer(gold).split()
    same = sum((Counter(found) & Counter(due)).values())
    if same == 0:
        return 0
    precision, recall = same / len(found), same / len(due)
    return 2 * precision * recall / (precision + recall)


def squad_2(golds, answers, above):
    """The scores of SQuAD 2.0's official script, and its best F1 over thresholds. Of each text: the gold answers, the
    best answer, and by how much no answer is likelier."""
    f1 = lambda found, gold: (max(answer_f1(found, g) for g in gold) if gold and normalize_answer(found)
                              else float(not gold and not normalize_answer(found)))
    exact = lambda found, gold: float(any(normalize_answer(found) == normalize_answer(g) for g in gold or [""]))
    mean = lambda list: sum(list) / len(list)
    given = ["" if a > 0 else answer for answer, a in zip(answers, above)]
    scores = [(f1(answer, gold), exact(answer, gold), bool(gold)) for answer, gold in zip(given, golds)]
    print("no answer", mean([f for f, *_ in scores]), mean([e for _, e, _ in scores]),
          mean([f for f, _, has in scores if has]), mean([e for _, e, has in scores if has]),
          mean([e for _, e, has in scores if not has]))
    now = best = sum(not gold for gold in golds)
    for at in sorted(range(len(golds)), key=above.__getitem__):
        now += f1(answers[at], golds[at]) if golds[at] else -1 if answers[at] else 0
        best = max(best, now)
    print("best F1", best / len(golds))


if __name__ == "__main__":
    found, gold = [1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1]
    print("two classes", accuracy_score(gold, found), f1_score(gold, found), matthews_corrcoef(gold, found))
    found, gold = [0, 1, 2, 2, 1, 0, 2], [0, 1, 1, 2, 0, 0, 2]
    print("three classes", f1_score(gold, found, average="macro"), matthews_corrcoef(gold, found))
    scores = np.array([[.9, .2, .6, .1], [.4, .8, .3, .1], [.7, .7, .2, .1], [.1, .2, .3, .4], [.6, .4, .9, .2],
                       [.3, .1, .1, .05]])
    sets = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    print("sets", *(f1_score(sets, scores >= .5, average=average, zero_division=0) for average in ("micro", "macro")),
          label_ranking_average_precision_score(sets, scores))
    print("Spearman", spearmanr([1, 2, 2, 4], [1, 3, 2, 4]).statistic, "Pearson", pearsonr([1, 2, 2, 4], [1, 3, 2, 5]).statistic)
    for found, gold in [
        ("B-A I-A O B-B | O B-A", "B-A I-A O B-B | B-A I-A"),
        ("I-A I-A I-B B-B I-B | O", "B-A I-A B-B I-B I-B | B-C"),
        ("B-A B-A I-B I-A | O O", "B-A I-A I-B I-A | O O"),
        ("O O", "O O"),
        # IOBES; seqeval takes L- and U- for other letters unless a scheme is named.
        ("B-A E-A S-A S-A I-B E-B | E-A E-A O", "B-A E-A B-A E-A I-B E-B | S-A E-A S-B"),
    ]:
        lists = [[sentence.split() for sentence in text.split(" | ")] for text in (gold, found)]
        print("span F1", repr(found), span_f1(*lists, zero_division=0))
    for found, gold in [
        ("the year 1943", ["1943", "7 January 1943"]),
        ("Nikola Tesla.", ["nikola tesla"]),
        ("very very good", ["very good", "good"]),
        ("the", ["a"]),
        ("cat", ["dog"]),
    ]:
        exact = max(normalize_answer(found) == normalize_answer(g) for g in gold)
        print("answer", repr(found), float(exact), max(answer_f1(found, g) for g in gold))
    squad_2([["the red fox"], [], ["a dog", "dog"], [], ["blue"]], ["red fox ran", "nothing", "dog", "here", "blue sky"],
            [-2, 1, 0.5, -1, -3])
    for text in ["The  Denver Broncos!", 'an-other "A" day', "theatre\tof the absurd", "1,200 $", "a — the"]:
        print("normalized", repr(normalize_answer(text)))
