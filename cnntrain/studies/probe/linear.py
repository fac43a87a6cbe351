"""Linear classifiers with an L2 penalty, fitted on inner products alone.

Such a classifier's weights are a combination of the images that it is fitted on (the representer theorem), so features
[N, D] may be replaced by any coordinates [N, R] with the same inner products. R is at most N, whatever D is.
scikit-learn does the fitting. Its warnings of fits that did not converge are counted, not shown.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import linalg
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC, LinearSVC

Classifier = Literal["svm", "softmax"]
ITERATIONS = 1000  # of a fit, at most; libsvm changes two images in one, and may do so as often for each image
TOLERANCE = {"svm": 1e-2, "softmax": 1e-3}  # an SVM's margins are 1
UNPENALISED = 10.0  # what the intercept's feature is: its penalty is a hundredth of a weight's
HARD = 1e10  # C of a support vector machine that allows no error
FEW = 4  # LinearSVC is the faster where images are more than so many times the dimensions
SAME = 1e-12  # accuracies of folds that differ by less are equal


@dataclass(frozen=True, eq=False)
class ImagePoints:
    """Images as points [N, R] whose inner products are those of their features.

    `gram` holds the inner products [N, N]; None where dimensions are so few that nothing needs them. Points that are
    not the features themselves have `pivots` [R], images that span all others and whose points are lower triangular.
    """

    values: np.ndarray
    gram: np.ndarray | None = None
    pivots: np.ndarray | None = None

    def take(self, places: np.ndarray) -> "ImagePoints":
        """Return some of the images by the same coordinates."""
        return ImagePoints(self.values[places], None if self.gram is None else self.gram[np.ix_(places, places)])

    def alone(self, places: np.ndarray) -> "ImagePoints":
        """Return some of the images by the fewest coordinates."""
        some = self.take(places)
        return some if some.gram is None or some.values.shape[1] <= len(places) else points_of_gram(some.gram)


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A linear classifier: logits are x @ weights + bias, [R, K] and [K]."""

    weights: np.ndarray
    bias: np.ndarray
    converged: bool

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the class [N] of points [N, R]."""
        return np.asarray((x @ self.weights + self.bias).argmax(axis=1))


@dataclass(frozen=True)
class ChosenC:
    """The C that folds chose, and its accuracy over them."""

    c: float
    fold_top1: float


def points_of_features(features: np.ndarray) -> ImagePoints:
    """Return images by their features [N, D], fewer than images."""
    return ImagePoints(features, features @ features.T if FEW * features.shape[1] > len(features) else None)


def points_of_gram(gram: np.ndarray) -> ImagePoints:
    """Return points of images with these inner products [N, N].

    They are the pivoted Cholesky factor: as exact as U√Λ of the eigenvectors, at a tenth of the cost.
    """
    factor, order, rank, _ = linalg.lapack.dpstrf(gram, lower=1)
    values = np.empty((len(gram), rank))
    values[order - 1] = np.tril(factor)[:, :rank]
    return ImagePoints(values, gram, order[:rank] - 1)


def shares_of_pivots(points: ImagePoints, weights: np.ndarray) -> np.ndarray:
    """Return the share [R, K] that the features of each pivot have in weights [R, K] of the points."""
    return np.asarray(linalg.solve_triangular(points.values[points.pivots], weights, lower=True, trans="T"))


def fit(
    kind: Classifier, points: ImagePoints, labels: np.ndarray, c: float, tolerance: float | None = None
) -> LinearFit:
    """Fit a classifier to labels [N], whose classes are 0 … K - 1, all of them present.

    `svm` is a support vector machine for each class against the others, with the squared hinge loss of `LinearSVC`.
    `softmax` is the regression by L-BFGS (`LogisticRegression`). The intercept of neither is penalised (that of an SVM
    in few dimensions by a hundredth).
    """
    tol = tolerance or TOLERANCE[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if kind == "svm" and points.gram is not None:
            weights, bias = dual_svm(points.gram, points.values, labels, c, tol)
        else:
            model = (
                LinearSVC(C=c, dual=False, tol=tol, max_iter=ITERATIONS, intercept_scaling=UNPENALISED)
                if kind == "svm"
                else LogisticRegression(C=c, tol=tol, max_iter=ITERATIONS)
            )
            model.fit(points.values, labels)
            weights, bias = model.coef_.T, np.asarray(model.intercept_)
    if weights.shape[1] == 1:  # two classes have one decision, for the second against the first
        weights, bias = np.hstack([-weights, weights]) / 2, np.array([-bias[0], bias[0]]) / 2
    return LinearFit(weights, bias, not any(issubclass(each.category, ConvergenceWarning) for each in caught))


def dual_svm(
    gram: np.ndarray, values: np.ndarray, labels: np.ndarray, c: float, tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [R, K] and biases [K] of support vector machines with squared hinge loss; one of two classes.

    With inner products plus 1 / 2C on the diagonal they are those that allow no error (Cortes and Vapnik 1995, with
    squared slacks), which libsvm finds ten times as fast as LinearSVC where dimensions are many.
    """
    softened = gram.copy()
    np.fill_diagonal(softened, gram.diagonal() + 1 / (2 * c))

    def machine_of(k: int) -> tuple[np.ndarray, float]:
        machine = SVC(kernel="precomputed", C=HARD, tol=tol, max_iter=ITERATIONS * len(labels))
        with config_context(assume_finite=True):  # a check of all products for each class takes as long as the fit
            machine.fit(softened, np.where(labels == k, 1, -1))
        return machine.dual_coef_[0] @ values[machine.support_], float(machine.intercept_[0])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # libsvm lets go of the interpreter
        machines = list(pool.map(machine_of, range(labels.max() + 1) if labels.max() > 1 else (1,)))
    weights, bias = zip(*machines, strict=True)
    return np.stack(weights, axis=1), np.array(bias)


def choose_c(
    kind: Classifier, points: ImagePoints, labels: np.ndarray, cs: Sequence[float], folds: int, seed: int
) -> ChosenC:
    """Return the smallest C with the highest accuracy over stratified folds.

    Larger ones are no longer tried once two in a row were worse than the one before.
    """
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    parts = [(points.take(inner), labels[inner], points.values[outer], labels[outer]) for inner, outer in splits]
    tried, scores = sorted(cs), list[float]()
    for c in tried:
        right = sum(int((fit(kind, inner, known, c).predict(x) == true).sum()) for inner, known, x, true in parts)
        scores.append(right / len(labels))
        if len(scores) > 2 and scores[-1] < scores[-2] < scores[-3]:
            break
    best = int(np.argmax(np.array(scores) > max(scores) - SAME))
    return ChosenC(tried[best], scores[best])
