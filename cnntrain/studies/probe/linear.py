"""Linear classifiers with an L2 penalty, fitted on features where images are more, else on inner products alone.

Such a classifier's weights are a combination of the images that it is fitted on (the representer theorem), so features
[N, D] may be replaced by any coordinates [N, R] with the same inner products. R is at most N, whatever D is.
"""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import linalg, optimize
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

Classifier = Literal["svm", "softmax"]
ITERATIONS = 1000  # of a fit, at most; libsvm changes two images in one, and may do so as often for each image
MARGIN = 1e-2  # by which libsvm may miss a margin, which is 1
STEEPNESS = 1e-3  # of the derivatives where L-BFGS ends, as a share of those where it began
STEPS = 50  # that L-BFGS remembers: a pass over all images costs more than they do
HARD = 1e10  # C of a support vector machine that allows no error
ROWS = 2**20  # numbers of features in a product, which should stay in the processor's cache
FEW = 4  # inner products are slower where images are more than so many times the dimensions …
MANY = 5000  # … or more than these and the dimensions
SAME = 1e-12  # accuracies of folds that differ by less are equal


@dataclass(frozen=True, eq=False)
class ImagePoints:
    """Images as points [N, R] whose inner products are those of their features.

    Points are the features themselves, or coordinates for the inner products `gram` [N, N], float64. Coordinates of
    all images have `pivots` [R]: images that span all others and whose points are lower triangular.
    """

    values: np.ndarray
    gram: np.ndarray | None = None
    pivots: np.ndarray | None = None

    def take(self, places: np.ndarray) -> "ImagePoints":
        """Return some of the images by the same coordinates."""
        return ImagePoints(self.values[places], None if self.gram is None else self.gram[np.ix_(places, places)])

    def alone(self, places: np.ndarray) -> "ImagePoints":
        """Return some of the images by the fewest coordinates."""
        if len(places) == len(self.values):
            return self
        some = self.take(places)
        if some.gram is None:
            return points_of_features(some.values)
        return some if some.values.shape[1] <= len(places) else points_of_gram(some.gram)


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A linear classifier: logits are x @ weights + bias, float64 [R, K] and [K]."""

    weights: np.ndarray
    bias: np.ndarray
    converged: bool

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the class [N] of points [N, R]."""
        return np.concatenate([(x[rows] @ self.weights + self.bias).argmax(axis=1) for rows in row_blocks(x)])


@dataclass(frozen=True)
class ChosenC:
    """The C that folds chose, and its accuracy over them."""

    c: float
    fold_top1: float


def row_blocks(x: np.ndarray) -> Iterator[slice]:
    """Yield the rows of a matrix in blocks."""
    step = max(1, ROWS // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def needs_products(dimensions: int, n: int) -> bool:
    """Say whether classifiers of n images are fitted by inner products."""
    return dimensions >= n or n <= min(MANY, FEW * dimensions)


def points_of_features(features: np.ndarray) -> ImagePoints:
    """Return images by their features [N, D]; where those are no fewer than images, by coordinates."""
    if not needs_products(features.shape[1], len(features)):
        return ImagePoints(features)
    x = features.astype(np.float64)
    gram = x @ x.T
    return ImagePoints(features, gram) if x.shape[1] < len(x) else points_of_gram(gram)


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

    `svm` is a support vector machine for each class against the others, with squared hinge loss. `softmax` is
    scikit-learn's regression by L-BFGS (`LogisticRegression`). The intercept of neither is penalised.
    """
    margin, steepness = tolerance or MARGIN, tolerance or STEEPNESS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if kind == "softmax":
            model = LogisticRegression(C=c, tol=steepness, max_iter=ITERATIONS).fit(points.values, labels)
            weights, bias = (part.T.astype(np.float64) for part in (model.coef_, model.intercept_))
        elif points.gram is None:
            weights, bias = primal_svm(points.values, labels, c, steepness)
        else:
            weights, bias = dual_svm(points.gram, points.values, labels, c, margin)
    if weights.shape[1] == 1:  # two classes have one decision, for the second against the first
        weights, bias = np.hstack([-weights, weights]) / 2, np.array([-bias[0], bias[0]]) / 2
    return LinearFit(weights, bias, not any(issubclass(each.category, ConvergenceWarning) for each in caught))


def primal_svm(values: np.ndarray, labels: np.ndarray, c: float, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [R, K] and biases [K] of support vector machines with squared hinge loss; one of two classes.

    They minimise ½‖w‖² + C Σ max(0, 1 - y (w·x + b))², all classes at once by L-BFGS. Products have the precision of
    the points, and are summed over blocks of them in float64. A fit ends where no derivative is larger than the largest
    at 0, times `tol` and the share of the rarer side: LIBLINEAR's rule, in another norm.
    """
    sides = sides_of(labels)
    machines, blocks = sides.shape[1], list(row_blocks(values))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        variables = flat.reshape(-1, machines)
        weights, bias, losses = variables[:-1].astype(values.dtype), variables[-1], 0.0
        gradient = np.vstack([variables[:-1], np.zeros(machines)])
        for rows in blocks:
            x, y = values[rows], sides[rows]
            slack = np.maximum(0, 1 - y * (x @ weights + bias))
            pull = -2 * c * y * slack
            losses += float((slack**2).sum())
            gradient[:-1] += x.T @ pull.astype(values.dtype)
            gradient[-1] += pull.sum(axis=0)
        return 0.5 * float((variables[:-1] ** 2).sum()) + c * losses, gradient.ravel()

    start = np.zeros((values.shape[1] + 1) * machines)
    steepest = np.abs(objective(start)[1]).reshape(-1, machines).max(axis=0)
    rarer = np.minimum((sides > 0).mean(axis=0), (sides < 0).mean(axis=0))
    least = tol * float((rarer * steepest).min())
    options = {"gtol": least, "ftol": 0, "maxcor": STEPS, "maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS}
    minimum = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if np.abs(minimum.jac).max() > least:
        warnings.warn(minimum.message, ConvergenceWarning, stacklevel=2)
    variables = minimum.x.reshape(-1, machines)
    return variables[:-1], variables[-1]


def dual_svm(
    gram: np.ndarray, values: np.ndarray, labels: np.ndarray, c: float, tol: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights [R, K] and biases [K] of the same machines, by inner products.

    With 1 / 2C on the diagonal they are those that allow no error (Cortes and Vapnik 1995, with squared slacks), which
    libsvm finds.
    """
    softened, sides = gram.copy(), sides_of(labels)
    np.fill_diagonal(softened, gram.diagonal() + 1 / (2 * c))

    def machine_of(k: int) -> tuple[np.ndarray, float]:
        machine = SVC(kernel="precomputed", C=HARD, tol=tol, max_iter=ITERATIONS * len(labels))
        with config_context(assume_finite=True):  # a check of all products for each class takes as long as the fit
            machine.fit(softened, sides[:, k])
        return machine.dual_coef_[0] @ values[machine.support_], float(machine.intercept_[0])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # libsvm lets go of the interpreter
        machines = list(pool.map(machine_of, range(sides.shape[1])))
    weights, bias = zip(*machines, strict=True)
    return np.stack(weights, axis=1), np.array(bias)


def sides_of(labels: np.ndarray) -> np.ndarray:
    """Return on which side of each machine an image is, 1 or -1 [N, K]; two classes have one machine [N, 1]."""
    classes = np.arange(labels.max() + 1) if labels.max() > 1 else np.array([1])
    return np.where(labels[:, None] == classes, 1.0, -1.0)


def choose_c(
    kind: Classifier, points: ImagePoints, labels: np.ndarray, cs: Sequence[float], folds: int, seed: int
) -> ChosenC:
    """Return the smallest C with the highest accuracy over stratified folds.

    Larger ones are no longer tried once two in a row were worse than the one before.
    """
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    tried, scores = sorted(cs), list[float]()
    for c in tried:
        scores.append(sum(correct_of_fold(kind, points, labels, c, *split) for split in splits) / len(labels))
        if len(scores) > 2 and scores[-1] < scores[-2] < scores[-3]:
            break
    best = int(np.argmax(np.array(scores) > max(scores) - SAME))
    return ChosenC(tried[best], scores[best])


def correct_of_fold(
    kind: Classifier, points: ImagePoints, labels: np.ndarray, c: float, inner: np.ndarray, outer: np.ndarray
) -> int:
    """Return how many of the `outer` images a classifier of the `inner` ones has right."""
    fitted = fit(kind, points.take(inner), labels[inner], c)
    return int((fitted.predict(points.values[outer]) == labels[outer]).sum())
