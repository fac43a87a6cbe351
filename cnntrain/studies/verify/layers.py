"""Pooling, normalisation, dropout, gradients: what the layers compute."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnntrain.models import MODELS
from cnntrain.nn.blocks import conv, dense, global_average, linear, lrn, pooling, stochastic_pool, unpooled
from cnntrain.nn.convolutions import maxout_conv
from cnntrain.nn.layers import FractionalMaxPool2d, LocalContrastNorm, LocalResponseNorm
from cnntrain.nn.stages import BuildOptions, assemble, walk
from cnntrain.studies.verify.convolution import close, noise
from cnntrain.studies.verify.registry import item
from cnntrain.studies.verify.ways import listed, maps, params, stages, starts

MATRIX = [[5, 3, 0, 3], [4, 0, 9, 4], [2, 4, 1, 2], [1, 3, 2, 3]]  # 002:720


def quarters(image: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """Return the 2×2 windows of an image, row by row."""
    values = np.array(image)
    return [[values[i : i + 2, j : j + 2] for j in range(0, values.shape[1], 2)] for i in range(0, len(values), 2)]


def pooled(kind: Any, kernel: int = 2, stride: int | None = None) -> Any:
    """Return what a pooling layer makes of the example."""
    return listed(pooling(kind, kernel, stride)((1, 4, 4))(maps(MATRIX)))


@item(
    "A2.1a", "002:697", printed="average of 2×2: 3 4 / 2.5 2", right=[[3, 4], [2.5, 2]], why="The mean of each window."
)
def average_pooling() -> Sequence[Any]:
    """Average pooling of the 4×4 example."""
    return pooled("avg"), [[float(window.mean()) for window in row] for row in quarters(MATRIX)]


@item("A2.1b", "002:720; 004:146", printed="the maximum of each window", right=[[5, 9], [4, 3]], why="5, 9 / 4, 3.")
def max_pooling() -> Sequence[Any]:
    """Max pooling of the 4×4 example."""
    return pooled("max"), [[int(window.max()) for window in row] for row in quarters(MATRIX)]


@item(
    "A2.1c",
    "002:727-733",
    printed="p = 5/12 3/12 0 3/16 / 4/12 0 9/16 4/16 / 2/10 4/10 1/8 2/8 / 1/10 3/10 2/8 3/8",
    right=[
        [5 / 12, 3 / 12, 0, 3 / 16],
        [4 / 12, 0, 9 / 16, 4 / 16],
        [0.2, 0.4, 1 / 8, 2 / 8],
        [0.1, 0.3, 2 / 8, 3 / 8],
    ],
    why="Each value over the sum of its window.",
)
def stochastic_probabilities() -> Sequence[Any]:
    """The probabilities of stochastic pooling, from 0 to 1."""
    values, table = np.array(MATRIX), np.zeros((4, 4))
    for i, row in enumerate(quarters(MATRIX)):
        for j, window in enumerate(row):
            table[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = window / window.sum()
    sums = torch.nn.functional.avg_pool2d(maps(MATRIX), 2) * 4
    by_pooling = values / sums[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()
    return table.tolist(), by_pooling.tolist()


@item(
    "A2.1d",
    "002:737-740",
    printed="example drawn: 4 9 / 3 2",
    right={"can be drawn": True, "frequencies within four deviations": True},
    why="Each of the four values is in its window with a probability above zero; 4,000 draws have those frequencies.",
)
def stochastic_draws() -> Sequence[Any]:
    """What stochastic pooling draws in training."""
    layer, n = stochastic_pool(2)((1, 4, 4)).train(), 4000
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    drawn = layer(maps(MATRIX).expand(n, -1, -1, -1))[:, 0].numpy()
    torch.default_generator.set_state(before)
    agree = []
    for i, row in enumerate(quarters(MATRIX)):
        for j, window in enumerate(row):
            for value in np.unique(window):
                p = float(window[window == value].sum() / window.sum())
                agree.append(abs((drawn[:, i, j] == value).mean() - p) <= 4 * math.sqrt(p * (1 - p) / n))
    example = [[4, 9], [3, 2]]
    seen = all((drawn[:, i, j] == example[i][j]).any() for i in (0, 1) for j in (0, 1))
    return ({"can be drawn": bool(seen), "frequencies within four deviations": all(agree)},)


@item(
    "A2.1e",
    "002:742",
    printed="in a test the mean weighted with p",
    right=[[50 / 12, 106 / 16], [3.0, 2.25]],
    why="Σ x² / Σ x of each window.",
)
def stochastic_in_a_test() -> Sequence[Any]:
    """Stochastic pooling in evaluation."""
    layer = stochastic_pool(2)((1, 4, 4)).eval()
    by_hand = [[float((window**2).sum() / window.sum()) for window in row] for row in quarters(MATRIX)]
    return layer(maps(MATRIX))[0, 0].tolist(), by_hand


@item(
    "A2.2",
    "002:667-668; 001:137-147; 003:290-295",
    printed="F = 2, S = 2; F = 3, S = 2; overlapping or not; pool_size=3, strides=1 “not recommended”",
    right={"2, 2": 3, "3, 2": 3, "3, 1": 5},
    why="Windows of 3 with stride 2 overlap; with stride 1 they blur and hardly shrink a line of 7.",
)
def usual_poolings() -> Sequence[Any]:
    """Sizes after the usual poolings of 7×7."""
    sizes = ((2, 2), (3, 2), (3, 1))
    line = noise(7)
    made, counted = {}, {}
    for f, s in sizes:
        out = pooling("max", f, s)((1, 7, 7))(maps(np.tile(line, (7, 1))))[0, 0, 0]
        maxima = [line[i : i + f].max() for i in range(0, 7 - f + 1, s)]
        made[f"{f}, {s}"] = len(out) if close(out, np.array(maxima)) else -1
        counted[f"{f}, {s}"] = starts(7, f, s)
    return made, counted


@item(
    "A2.3",
    "002:688,709",
    printed="the gradient reaches all cells of an average; how does it pass a maximum?",
    right={"max": [5, 9, 4, 3], "average": 0.25},
    why="A maximum passes it to the largest cell alone, an average a quarter to each.",
)
def gradients_of_pooling() -> Sequence[Any]:
    """Where the gradient goes: the cells with one through max pooling, the share of each through average pooling."""
    x = maps(MATRIX).requires_grad_()
    (routed,) = torch.autograd.grad(pooling("max", 2)((1, 4, 4))(x).sum(), x)
    (spread,) = torch.autograd.grad(pooling("avg", 2)((1, 4, 4))(x).sum(), x)
    cells = routed[0, 0].flatten().bool()
    values = [int(value) for value in x[0, 0].flatten()[cells]]
    return ({"max": values, "average": float(spread.unique())},)


@item(
    "A2.4",
    "002:276-280",
    printed="pooling: max, average, global average, stochastic, fractional",
    right={"max": 4, "average": 4, "global average": 1, "stochastic": 4, "fractional": 5},
    why="Five kinds on maps of 8×8; the fractional one shrinks by √2.",
)
def kinds_of_pooling() -> Sequence[Any]:
    """The sides that five kinds of pooling leave of 8."""
    x, shape = maps(np.abs(noise(8, 8))), (1, 8, 8)
    side = {
        "max": pooling("max", 2)(shape)(x).shape[2],
        "average": pooling("avg", 2)(shape)(x).shape[2],
        "global average": global_average()(shape)(x).shape[1],
        "stochastic": stochastic_pool(2)(shape).eval()(x).shape[2],
        "fractional": FractionalMaxPool2d().eval()(x).shape[2],
    }
    return side, {"max": 4, "average": 4, "global average": 1, "stochastic": 4, "fractional": int(8 / math.sqrt(2))}


@item(
    "A2.5",
    "004:203-211; 766",
    printed="unpooling: remember the places of the maxima, fill the others with 0",
    right=[[5, 0, 0, 0], [0, 0, 9, 0], [0, 4, 0, 0], [0, 0, 0, 3]],
    why="Each maximum returns to where it was.",
)
def unpooling() -> Sequence[Any]:
    """Max pooling and unpooling of the 4×4 example."""
    stage = unpooled(2, lambda shape: nn.Identity())((1, 4, 4))
    expected = np.zeros((4, 4), dtype=int)
    for i, row in enumerate(quarters(MATRIX)):
        for j, window in enumerate(row):
            a, b = np.unravel_index(window.argmax(), (2, 2))
            expected[2 * i + a, 2 * j + b] = window.max()
    return listed(stage(maps(MATRIX))), expected.tolist()


@item(
    "A2.6a",
    "003:198-202",
    printed="h ← (h - m) / σ within a neighbourhood along space and features",
    right={"constant becomes": 0.0, "contrast of a scaled image": 1.0},
    why="A constant image has no contrast; brightness and contrast of the image do not matter.",
)
def local_contrast() -> Sequence[Any]:
    """Local contrast normalisation of a constant image, and of an image three times as strong."""
    layer, x = LocalContrastNorm(9, floor=0.0), maps(noise(3, 24, 24))
    constant = LocalContrastNorm(9)(torch.full((1, 3, 12, 12), 7.0, dtype=torch.float64))
    ratio = float((layer(3 * x + 5) / layer(x)).median())
    return ({"constant becomes": round(float(constant.abs().max()), 9), "contrast of a scaled image": round(ratio, 9)},)


@item(
    "A2.6b",
    "000:492; 002:925; 003:194",
    printed="NORM1, NORM2; LOCAL CONTRAST NORM",
    right=True,
    why="AlexNet's layer is local response normalisation: x over (2 + 10⁻⁴ Σ x² of five neighbouring maps)^0.75.",
)
def local_response() -> Sequence[Any]:
    """Local response normalisation, map by map."""
    x = noise(8, 4, 4)
    expected = np.stack([x[i] / (2 + 1e-4 * (x[max(0, i - 2) : i + 3] ** 2).sum(axis=0)) ** 0.75 for i in range(8)])
    return close(lrn()((8, 4, 4))(maps(x))[0], expected), close(LocalResponseNorm()(maps(x))[0], expected)


@item(
    "E23",
    "003:402",
    printed="x̂ = (x - μ) / (σ + ε)",
    right={"σ = 0.001": 0.301511},
    says={"σ = 0.001": round(1 / 1.01, 6)},
    why="It is (x - μ) / √(σ² + ε): for small σ the two are far apart (here ε = 10⁻⁵, x = μ + σ).",
)
def batch_norm_formula() -> Sequence[Any]:
    """What batch norm makes of μ + σ, for a deviation of 0.001."""
    layer = nn.BatchNorm2d(1).double()
    x = torch.tensor([2.001, 1.999], dtype=torch.float64).view(2, 1, 1, 1)
    return (
        {"σ = 0.001": round(float(layer(x).detach()[0, 0, 0, 0]), 6)},
        {"σ = 0.001": round(0.001 / math.sqrt(0.001**2 + 1e-5), 6)},
    )


@item(
    "A2.7",
    "003:395-420; 002:13-18",
    printed="μ and σ² of each mini-batch; y = γ x̂ + β; statistics of the training set at test time",
    right={"mean": -1.0, "deviation": 3.0, "kept variance / batch variance": 100 / 99, "sum's gradient": 0.0},
    why="A batch leaves with β and γ; the running variance is the unbiased one; shifting a batch changes nothing.",
)
def batch_norm() -> Sequence[Any]:
    """Batch norm with γ = 3 and β = -1 on 100 values."""
    layer = nn.BatchNorm2d(1, momentum=1.0, eps=1e-12).double()
    nn.init.constant_(layer.weight, 3.0)
    nn.init.constant_(layer.bias, -1.0)
    x = torch.tensor(noise(4, 1, 5, 5)).requires_grad_()
    out = layer(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    out = out.detach()
    assert layer.running_var is not None
    ratio = float(layer.running_var[0]) / float(x.detach().var(correction=0))
    return (
        {
            "mean": round(float(out.mean()), 9),
            "deviation": round(float(out.std(correction=0)), 9),
            "kept variance / batch variance": ratio,
            "sum's gradient": round(float(gradient.abs().max()), 9),
        },
    )


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the shares of scores."""
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


@item(
    "A2.8a",
    "003:372-380",
    printed="for a single hidden layer, halved weights equal the geometric mean of all thinned networks",
    right={"softmax": True, "two hidden layers": False},
    why="Exact for one hidden layer and a softmax (all 2⁶ masks counted); with two it is an approximation.",
)
def geometric_mean() -> Sequence[Any]:
    """Halved weights beside the geometric mean over every dropout mask."""
    x, w1, w2, w3 = noise(6), noise(6, 6, seed=1), noise(6, 6, seed=2), noise(4, 6, seed=3)
    masks = [np.array(mask) for mask in itertools.product((0, 1), repeat=6)]

    def normalised(logs: list[np.ndarray]) -> np.ndarray:
        mean = np.exp(np.mean(logs, axis=0))
        return np.asarray(mean / mean.sum())

    hidden = np.tanh(w1 @ x)
    one = normalised([np.log(softmax(w3 @ (hidden * mask))) for mask in masks])
    two = normalised(
        [np.log(softmax(w3 @ (np.tanh(w2 @ (hidden * a)) * b))) for a, b in itertools.product(masks, masks)]
    )
    deep = np.tanh(w2 @ hidden / 2)
    return ({"softmax": close(softmax(w3 @ hidden / 2), one), "two hidden layers": close(softmax(w3 @ deep / 2), two)},)


@item(
    "A2.8b",
    "003:360-378; 002:906",
    printed="omit each hidden unit with probability 0.5; at test time halve the outgoing weights",
    right={"kept units are doubled": True, "about half are kept": True},
    why="Implementations double what is kept in training instead, which is the same in evaluation.",
)
def dropout_in_training() -> Sequence[Any]:
    """A dropout layer in training beside evaluation."""
    stage, x = dense(400, dropout=0.5)((20,)).double(), torch.tensor(noise(1, 20))
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    thinned = stage.train()(x)
    torch.default_generator.set_state(before)
    whole = stage.eval()(x)
    kept = (thinned != 0) & (whole > 0)
    share = float(kept.sum() / (whole > 0).sum())
    return (
        {
            "kept units are doubled": close(thinned[kept].detach(), 2 * whole[kept].detach()),
            "about half are kept": 0.4 < share < 0.6,
        },
    )


@item(
    "A2.9",
    "001:291-302",
    printed="gradients vanish along the chain; ReLU by default",
    right={"sigmoid": "vanishes", "ReLU": "stays", "residual": "stays"},
    why="After 20 layers the first layer's gradient is below 10⁻⁸ with sigmoids and above 10⁻² with ReLU or shortcuts.",
)
def vanishing_gradients() -> Sequence[Any]:
    """The first layer's gradient under 20 layers."""
    fates = {}
    for name, norms in gradient_norms(20).items():
        fates[name] = "vanishes" if norms[0] < 1e-8 else "stays" if norms[0] > 1e-2 else f"{norms[0]:.1e}"
    return (fates,)


def gradient_norms(depth: int) -> dict[str, list[float]]:
    """Return the norm of every layer's gradient in networks of so many layers, by their kind."""
    found = {}
    for name in ("sigmoid", "ReLU", "residual"):
        size = 0.25 if name == "sigmoid" else math.sqrt(2 / 16)
        weights = [torch.tensor(noise(16, 16, seed=i) * size).requires_grad_() for i in range(depth)]
        x = torch.tensor(noise(8, 16))
        for w in weights:
            out = x @ w.T
            x = {"sigmoid": out.sigmoid(), "ReLU": out.relu(), "residual": x + 0.1 * out.relu()}[name]
        gradients = torch.autograd.grad(x.square().sum(), weights)
        found[name] = [float(gradient.norm()) for gradient in gradients]
    return found


@item(
    "E22",
    "001:333-335",
    printed="∂a⁺/∂a = φ'[a + F(a)] × φ'[1 + F'(a)]",
    right=round((1 - math.tanh(0.3 + math.sin(0.3)) ** 2) * (1 + math.cos(0.3)), 9),
    says=round((1 - math.tanh(0.3 + math.sin(0.3)) ** 2) * (1 - math.tanh(1 + math.cos(0.3)) ** 2), 9),
    why="The second φ' does not belong there: φ'[a + F(a)] × [1 + F'(a)]. Here φ = tanh, F = sin, a = 0.3.",
)
def residual_derivative() -> Sequence[Any]:
    """The derivative of a residual unit."""
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.tanh(a + torch.sin(a)), a)
    step = 1e-6
    ends = [math.tanh(at + math.sin(at)) for at in (0.3 - step, 0.3 + step)]
    return round(float(gradient), 9), round((ends[1] - ends[0]) / (2 * step), 9)


@item(
    "A2.10",
    "004:262-289",
    printed="x_T = x_t + Σ F(x_i); ∂C/∂x_t = ∂C/∂x_T (1 + ∂/∂x_t Σ F)",
    right={"sum": True, "gradient": True},
    why="Exact for pre-activation blocks, which add to the shortcut and do nothing after it.",
)
def residual_sum() -> Sequence[Any]:
    """Pre-activation blocks add up, forward and backward."""
    net = MODELS["preact_resnet164"]((3, 8, 8), 10, BuildOptions()).double().eval()
    x = torch.tensor(noise(1, 3, 8, 8))
    for name, out in walk(net, x, "block1_1"):
        x = out if name == "block1_1" else x
    x = x.detach().requires_grad_()
    last, bodies = x, torch.zeros_like(x)
    for number in (2, 3, 4):
        block = net.get_submodule(f"block1_{number}")
        bodies = bodies + block.get_submodule("main")(last)
        last = block(last)
    arrives = torch.tensor(noise(*last.shape, seed=5))
    whole, part = (torch.autograd.grad(out, x, arrives, retain_graph=True)[0] for out in (last, bodies))
    return ({"sum": close(last.detach(), (x + bodies).detach()), "gradient": close(whole, arrives + part)},)


@item(
    "A2.12",
    "003:503-513",
    printed="pooling over filters that are rotations of one template gives invariance to rotation",
    right={"turned by 90°": True, "turned by 45°": False},
    why="The maximum over a filter in four directions is the same after a quarter turn; other angles need others.",
)
def rotated_filters() -> Sequence[Any]:
    """The largest answer of one filter in four directions, for turned images."""
    stage = maxout_conv(1, 5, rotated=True)((1, 5, 5)).double()
    for leaf in stage.modules():
        if hasattr(leaf, "reset_parameters"):
            leaf.reset_parameters()  # type: ignore[operator]
    with torch.no_grad():
        next(stage.parameters()).copy_(torch.tensor(noise(1, 1, 5, 5, seed=3)))
    x = maps(noise(5, 5))
    answer, quarter = float(stage(x).detach()), float(stage(x.rot90(1, (2, 3))).detach())
    eighth = x.clone()
    for ring, steps in ((rim(5), 2), (rim(3), 1)):
        for (i, j), (k, m) in zip(ring, ring[steps:] + ring[:steps], strict=True):
            eighth[0, 0, i, j] = x[0, 0, k, m]
    return (
        {
            "turned by 90°": math.isclose(answer, quarter),
            "turned by 45°": math.isclose(answer, float(stage(eighth).detach())),
        },
    )


def rim(side: int) -> list[tuple[int, int]]:
    """Return the places of the square ring of so many places a side about the middle of 5×5, clockwise."""
    low, high = (5 - side) // 2, (5 + side) // 2 - 1
    line = range(low, high)
    edges = [(low, j) for j in line], [(j, high) for j in line], [(high, low + high - j) for j in line]
    return [*itertools.chain(*edges), *((low + high - j, low) for j in line)]


@item(
    "S4",
    "003:69-71",
    printed="154 inputs change from 2 shift left: 77 black to white, 77 white to black",
    right={"as many each way": True, "in all": "twice that"},
    why="A shift keeps the number of black pixels while none leaves the image: as many turn white as turn black. "
    "`cnntrain invariance warp=translate_x` counts them for every digit of MNIST.",
)
def shifted_digit() -> Sequence[Any]:
    """Pixels of a drawn digit that change when it moves by two."""
    digit = np.zeros((28, 28), dtype=bool)
    digit[6:9, 8:20] = digit[9:22, 16:19] = digit[13:16, 10:20] = True  # a 7 with a bar
    moved = np.roll(digit, -2, axis=1)
    white, black = int((digit & ~moved).sum()), int((~digit & moved).sum())
    return (
        {
            "as many each way": white == black > 0,
            "in all": "twice that" if int((digit ^ moved).sum()) == 2 * white else "?",
        },
    )


@item(
    "A2.13",
    "002:1122-1130; 002:1016-1024",
    printed="a fully connected layer on the features; one map a class, its mean to the softmax",
    right={"parameters of GAP": 0, "mean of the map": True},
    why="Global average pooling has nothing to learn; its answer is the mean of each map.",
)
def gap() -> Sequence[Any]:
    """Global average pooling."""
    x = noise(10, 6, 6)
    stage = global_average()((10, 6, 6))
    rows = stages((10, 6, 6), (10,), g=global_average())
    return ({"parameters of GAP": params(rows), "mean of the map": close(stage(maps(x))[0], x.mean(axis=(1, 2)))},)


@item(
    "S14",
    "002:1058-1065",
    printed="GAP: localisation for free",
    right=True,
    why="With global average pooling the mean of a class's activation map is its logit minus the bias, exactly.",
)
def class_activation_map() -> Sequence[Any]:
    """The class activation map sums to the logit."""
    makers = {"conv": conv(6, 3), "gap": global_average(), "fc": linear(4)}
    net = assemble(makers, (3, 9, 9), out_shape=(4,)).double().eval()
    x = maps(noise(3, 9, 9))
    outs = dict(walk(net, x))
    last = next(module for module in net.get_submodule("fc").modules() if isinstance(module, nn.Linear))
    maps_of_classes: Tensor = torch.einsum("kc,nchw->nkhw", last.weight, outs["conv"])
    return (close(maps_of_classes.mean((2, 3)).detach(), (outs["fc"] - last.bias).detach()),)
