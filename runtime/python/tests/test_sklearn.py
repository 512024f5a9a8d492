"""Tests of the estimator of scikit-learn, over the demo's encoder.

usage: test_sklearn.py MODULE
(pip install numpy scikit-learn; MODULE is the library that cargo built, target/debug/libedge_run_python.so; the demo's encoder is in the
store)
"""

import os
import pickle
import sys
import unittest
import warnings
from pathlib import Path

import numpy
import package
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

package.install(sys.argv[1])
import edge_run
from edge_run.sklearn import PatchClassifier

SST2 = Path(__file__).parents[3] / "patches" / "library" / "sst2.bias"

WORDS = ["film", "very", "the", "was", "not", "it", "cafe"]
TEXTS = [f"{WORDS[at * 3 % 7]} {'good' if at % 2 else 'bad'} {WORDS[at * 5 % 6]}" for at in range(48)]
LABELS = [["bad", "good"][at % 2] for at in range(48)]


class Sklearn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        stored = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-run/bundles"
        cls.bundle = stored / edge_run.Encoder.of(SST2).digest
        cls.options = {"pooling": "mean", "max_length": 16, "learning_rate": 1e-2}
        cls.fitted = PatchClassifier(cls.bundle, **cls.options).fit(TEXTS, LABELS)

    def test_it_answers_as_its_patch(self):
        probabilities = self.fitted.predict_proba(TEXTS)
        encoder = edge_run.Encoder(self.bundle)
        task = encoder.attach(self.fitted.patch_)
        self.assertEqual((task.labels, self.fitted.classes_.tolist()), (["bad", "good"], ["bad", "good"]))
        for answer, row, label in zip(encoder.predict(TEXTS, [task]), probabilities, self.fitted.predict(TEXTS)):
            self.assertEqual((answer[0]["label"], answer[0]["score"]), (label, row.max()))
            # Two floats of 32 bits.
            self.assertAlmostEqual(row.sum(), 1.0, delta=1e-6)
        self.assertGreater(self.fitted.score(TEXTS, LABELS), 0.9)
        self.assertEqual(self.fitted.predict_proba([]).shape, (0, 2))

    def test_labels_are_given_back_as_they_came(self):
        for labels in ([0, 1], [10.0, 2.0], [True, False], [10, 9]):
            y = numpy.array([labels[at % 2] for at in range(48)])
            fitted = PatchClassifier(self.bundle, **self.options).fit(TEXTS, y)
            found = fitted.predict(TEXTS)
            self.assertEqual(found.dtype, y.dtype)
            self.assertGreater((found == y).mean(), 0.9, labels)

    def test_it_is_copied_and_pickled(self):
        copy = pickle.loads(pickle.dumps(self.fitted))
        self.assertEqual(copy.predict_proba(TEXTS).tolist(), self.fitted.predict_proba(TEXTS).tolist())
        fresh = clone(self.fitted)
        self.assertEqual(fresh.get_params(), self.fitted.get_params())
        with self.assertRaises(NotFittedError):
            fresh.predict(TEXTS)
        self.assertEqual(fresh.fit(TEXTS, LABELS).patch_, self.fitted.patch_)
        self.assertNotEqual(fresh.set_params(random_state=2).fit(TEXTS, LABELS).patch_, self.fitted.patch_)

    def test_it_is_a_part_of_pipelines_and_searches(self):
        lower = make_pipeline(FunctionTransformer(lambda X: [text.lower() for text in X]),
                              PatchClassifier(self.bundle, **self.options))
        scores = cross_val_score(lower, [text.upper() for text in TEXTS], LABELS, cv=3)
        self.assertTrue((scores > 0.8).all(), scores)
        search = GridSearchCV(PatchClassifier(self.bundle, **self.options), {"learning_rate": [1e-9, 1e-2]}, cv=2)
        self.assertEqual(search.fit(numpy.array(TEXTS), LABELS).best_params_, {"learning_rate": 1e-2})

    def test_pairs_and_columns_are_texts(self):
        pairs = [(text, "a film") for text in TEXTS]
        fitted = PatchClassifier(self.bundle, **self.options).fit(pairs, LABELS)
        due = fitted.predict_proba(pairs).tolist()
        self.assertEqual(fitted.predict_proba(numpy.array(pairs)).tolist(), due)
        column = numpy.array(TEXTS).reshape(-1, 1)
        self.assertEqual(self.fitted.predict_proba(column).tolist(), self.fitted.predict_proba(TEXTS).tolist())

    def test_refusals_are_value_errors(self):
        for said, X, y in [
            ("expected texts, or pairs of texts, found an array of shape", numpy.zeros((4, 3)), [0, 1, 0, 1]),
            ("expected texts, or pairs of texts, found an array of shape", "a text", [0]),
            ("found a float", [0.5, 1.5], [0, 1]),
            ("labels: expected one for each of 2 texts, found 3", ["a", "b"], [0, 1, 0]),
            ("y: expected at least two classes, found 1 class", ["a", "b"], [1, 1]),
            ("Unknown label type", ["a", "b"], [0.25, 1.5]),
        ]:
            with self.assertRaisesRegex(ValueError, said):
                PatchClassifier(self.bundle).fit(X, y)
        with self.assertRaisesRegex(edge_run.Error, "nowhere"):
            PatchClassifier("nowhere").fit(TEXTS, LABELS)

    def test_the_checks_of_scikit_learn_pass(self):
        estimator = OfNumbers(self.bundle, slots="frozen", epochs=1, max_length=8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = check_estimator(estimator, expected_failed_checks=FAILING)
        self.assertEqual({one["check_name"] for one in found if one["status"] == "xfail"}, {*FAILING})
        self.assertGreater(sum(one["status"] == "passed" for one in found), 30)


class OfNumbers(PatchClassifier):
    """Reads rows of numbers as texts, because the checks have no other."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def fit(self, X, y):
        return super().fit(written(X), y)

    def predict_proba(self, X):
        return super().predict_proba(written(X))


def written(X):
    return [" ".join(f"{value:.0f}" for value in row) for row in numpy.asarray(X)]


# The checks that cannot pass, and why.
SPARSE = "no text is a row of a sparse matrix"
FAILING = {
    "check_estimator_sparse_tag": SPARSE,
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
    "check_class_weight_classifiers": "class_weight is None or balanced, not a dictionary",
    "check_classifiers_train": "it wants 83 % of clouds of points, whose numbers are no words",
}


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
