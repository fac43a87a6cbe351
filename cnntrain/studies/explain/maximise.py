"""Images made to excite a unit, a map or a class as much as possible, beside the real image that excites it most.

Gradient ascent from noise finds patterns that no eye has seen; what the authors add keeps images natural.

- `yosinski`: Yosinski, Clune, Nguyen, Fuchs and Lipson, "Understanding Neural Networks Through Deep Visualization",
  ICML workshop 2015, section 3. After each step the image decays, is blurred every few steps, and pixels of small norm
  or of small contribution become the mean; 500 steps. They give four sets of constants (table 1), as (decay, radius,
  every, norm, contribution): (0, .5, 4, 50 %, 0), (.3, 0, 0, 20 %, 0), (.0001, 1, 4, 0, 0) and (0, .5, 4, 0, 90 %). A
  step is as long as would raise the activation by `PROGRESS` if the network were linear (their code's rule), here as a
  share of the best real image's activation, because units have all sizes.
- `mahendran_vedaldi`: Mahendran and Vedaldi, "Visualizing Deep Convolutional Neural Networks Using Natural Pre-images",
  IJCV 2016, with the constants of their code: minus the activation, over the best real image's, plus half of
  8e-10 Σ x⁶ + 10 Σ (the squared differences to the next pixels), over σ², for x in 0…255 about the mean and σ the norm
  of a natural image; momentum 0.9; the rate falls from 0.001 in five steps, in 2,100 steps of ascent.

Both sets of constants are for images of 227 pixels a side; those of smaller images stay smoother than they need.

Behind a ReLU a unit may not answer to noise at all; then its start is drawn anew, as smooth noise, until it does. What
is compared is the activation of the picture that is shown: pixels are whole numbers in 0…255.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cnntrain.data.loading.normalise import normalised
from cnntrain.nn.geometry import stage_spans
from cnntrain.nn.measures import Spans
from cnntrain.nn.stages import walk
from cnntrain.runtime.progress import counting
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.tables import Row
from cnntrain.studies.explain.explanation import Explanation
from cnntrain.studies.explain.options import MaximiseOptions
from cnntrain.studies.explain.patches import BEYOND, receptive_field, unit_picture
from cnntrain.studies.explain.question import Question, Subject
from cnntrain.studies.explain.search import SearchedImages, searched_images, units_to_show
from cnntrain.studies.explain.tiles import Tile
from cnntrain.studies.explain.units import Exciting, Pooled, most_exciting, receptive_patch
from cnntrain.training.pictures import mosaic

USUAL_UNITS = 4
NOISE = 10.0  # standard deviation of a start, in 0…255
SMOOTH_NOISE, SMOOTH_RADIUS = 60.0, 2.0  # of another start, where a unit does not answer; the radius in pixels
YOSINSKI_STEPS, PROGRESS = 500, 0.1
ALPHA, ALPHA_WEIGHT, VARIATION_WEIGHT, MOMENTUM = 6, 8e-10, 10.0, 0.9
RATES = ((0.001, 800), (1e-4, 500), (1e-5, 500), (1e-6, 200), (1e-7, 100))  # with so many steps each

Objective = Callable[[Tensor], Tensor]  # from offsets of pixels to the mean [N, C, H, W] to one number [N] an image
Advance = Callable[[int], None]


def maximise(question: Question) -> Explanation:
    """Return by stage the images that excite units most: the best real one, and one made from each start."""
    options, subject = question.options.maximise, question.subject
    chosen, images = units_to_show(question, USUAL_UNITS), searched_images(question)
    best = most_exciting(subject.net, images.batches("best real images"), chosen.units, 1, options.of)
    spans = stage_spans(subject.net, subject.info.shape) if options.of == "unit" else {}
    tiles, rows = dict[str, dict[int, list[Tile]]](), list[Row]()
    with counting(sum(map(len, chosen.units.values())) * steps_of(options), "maximise", "step") as progress:
        for stage, real in best.items():
            made = made_images(question, stage, real, progress)
            reached = shown_activations(subject, stage, made, real.units, options.of)
            tiles[stage] = {}
            for i, unit in enumerate(real.units.tolist()):
                title = f"{unit_name(subject, stage, unit)}: {reached[i].max():.3g}, real {real.values[i, 0]:.3g}"
                shown = side_by_side(images, real, i, made[i], chosen.shapes[stage], spans.get(stage))
                tiles[stage][unit] = [Tile(title, shown)]
                rows.append(
                    {
                        "stage": stage,
                        "unit": unit_name(subject, stage, unit),
                        "sees": receptive_field(spans.get(stage), subject.info.shape[1:]),
                        "best real": float(real.values[i, 0]),
                        "reached": float(reached[i].max()),
                        "least of the starts": float(reached[i].min()),
                        "times": float(reached[i].max() / real.values[i, 0]) if real.values[i, 0] > 0 else None,
                        "n": len(images),
                    }
                )
    pictures = [unit_picture("maximise", stage, "what excites a unit most", units) for stage, units in tiles.items()]
    return Explanation(pictures, rows, [*remarks(options, images), *filter(None, [chosen.left_out])], tiles)


def steps_of(options: MaximiseOptions) -> int:
    """Return how many steps are taken: the authors' number, unless said."""
    usual = YOSINSKI_STEPS if options.prior == "yosinski" else sum(steps for _, steps in RATES)
    return options.steps or usual


def made_images(question: Question, stage: str, real: Exciting, progress: Advance) -> np.ndarray:
    """Return the images made for each unit from each start, uint8 [units, starts, H, W, C]."""
    options, subject = question.options.maximise, question.subject
    channels, height, width = subject.info.shape
    mean = 255 * torch.tensor(subject.info.mean, device=subject.device).view(1, -1, 1, 1)
    natural = 255 * math.sqrt(height * width * sum(std**2 for std in subject.info.std))  # the norm of a usual image
    made = []
    for unit, strongest in zip(real.units.tolist(), real.values[:, 0].tolist(), strict=True):
        draws = generator(question.options.seed, "maximise", stage, unit)

        def noise() -> Tensor:
            drawn = draws.standard_normal((options.starts, channels, height, width), dtype=np.float32)  # noqa: B023
            return torch.from_numpy(drawn).to(subject.device)

        def objective(offsets: Tensor) -> Tensor:
            return activations(subject, stage, offsets + mean, unit, options.of)  # noqa: B023

        size = abs(strongest) or 1.0
        if options.prior == "yosinski":
            offsets = ascend_with_care(
                objective, noise, (-mean, 255 - mean), size, options, steps_of(options), progress
            )
        else:
            offsets = ascend_naturally(objective, noise, natural, size, steps_of(options), progress)
        made.append((offsets + mean).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.stack(made)


def activations(subject: Subject, stage: str, pixels: Tensor, unit: int, of: Pooled) -> Tensor:
    """Return what a unit answers to pixels [N, C, H, W] in 0…255: in the middle of its map, or the mean of the map."""
    *_, (_, features) = walk(subject.net, normalised(pixels, subject.info), stage)
    maps = features[:, unit].float()
    if maps.dim() == 1:
        return maps
    return maps.mean(dim=(1, 2)) if of == "map" else maps[:, maps.shape[1] // 2, maps.shape[2] // 2]


@torch.no_grad()
def shown_activations(subject: Subject, stage: str, made: np.ndarray, units: np.ndarray, of: Pooled) -> np.ndarray:
    """Return what units answer to the pictures made for them, [units, starts]."""
    return np.stack(
        [
            activations(subject, stage, torch.from_numpy(some).to(subject.device).permute(0, 3, 1, 2).float(), unit, of)
            .cpu()
            .numpy()
            for some, unit in zip(made, units.tolist(), strict=True)
        ]
    )


def slopes(objective: Objective, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the objective's numbers [N] and their gradients [N, C, H, W]."""
    leaf = offsets.detach().requires_grad_()
    with torch.enable_grad():
        values = objective(leaf)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def restarted(offsets: Tensor, gradient: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """Return images with smooth noise in place of those whose gradient is zero everywhere."""
    flat = (gradient == 0).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    if not flat.any():
        return offsets
    smooth = blurred(noise(), SMOOTH_RADIUS)
    return torch.where(flat, smooth * SMOOTH_NOISE / smooth.std(), offsets)


def blurred(images: Tensor, radius: float) -> Tensor:
    """Return images after a Gaussian blur of a radius (standard deviation) in pixels, cut off at four of them."""
    reach = min(round(4 * radius), min(images.shape[2:]) - 1)
    smooth: Tensor = gaussian_blur(images, [2 * reach + 1] * 2, [radius] * 2)
    return smooth


def ascend_with_care(
    objective: Objective,
    noise: Callable[[], Tensor],
    ends: tuple[Tensor, Tensor],
    strongest: float,
    options: MaximiseOptions,
    steps: int,
    progress: Advance,
) -> Tensor:
    """Return the most exciting images on the way from noise as Yosinski et al. go it, as offsets to the mean.

    `ends` are the offsets of black and white, `strongest` the activation that the length of a step refers to.
    """
    offsets = best = NOISE * noise()
    highest = offsets.new_full((len(offsets),), -math.inf)
    for step in range(steps):
        offsets = offsets.clamp(*ends)
        values, gradient = slopes(objective, offsets)
        better = values > highest
        highest, best = torch.where(better, values, highest), torch.where(better.view(-1, 1, 1, 1), offsets, best)
        square = gradient.square().sum(dim=(1, 2, 3), keepdim=True)
        offsets = offsets + PROGRESS * strongest / square.clamp(min=1e-12) * gradient
        offsets = careful(offsets, gradient, options, blur=step % options.blur_every == 0)
        offsets = restarted(offsets, gradient, noise)
        progress(1)
    return best


def careful(offsets: Tensor, gradient: Tensor, options: MaximiseOptions, *, blur: bool) -> Tensor:
    """Return images [N, C, H, W] after decay, blur, and with pixels of little norm or contribution at the mean."""
    offsets = offsets * (1 - options.decay)
    if blur and options.blur > 0:
        offsets = blurred(offsets, options.blur)
    offsets = without_smallest(offsets, offsets.norm(dim=1), options.small_norm)
    return without_smallest(offsets, (offsets * gradient).sum(dim=1).abs(), options.small_contribution)


def without_smallest(offsets: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Return images with the pixels whose `sizes` [N, H, W] are among a share of the smallest at the mean."""
    if share == 0:
        return offsets
    ends = sizes.flatten(1).quantile(share, dim=1).view(-1, 1, 1)
    return offsets * (sizes >= ends)[:, None]


def ascend_naturally(
    objective: Objective,
    noise: Callable[[], Tensor],
    natural: float,
    strongest: float,
    steps: int,
    progress: Advance,
) -> Tensor:
    """Return images after the ascent of Mahendran and Vedaldi from noise of the norm of a natural image.

    They are offsets to the mean; `strongest` is the activation that counts as one.
    """
    offsets = noise()
    offsets = offsets * natural / offsets.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    velocity, last = torch.zeros_like(offsets), 0.0
    for step in range(steps):
        rate = rate_of(step / steps)
        velocity, last = velocity if rate == last else torch.zeros_like(velocity), rate
        _, gradient = slopes(objective, offsets)
        _, resistance = slopes(unnaturalness, offsets)
        velocity = MOMENTUM * velocity - rate * (resistance - natural**2 / strongest * gradient)
        offsets = restarted(offsets + velocity, gradient, noise)
        progress(1)
    return offsets


def rate_of(done: float) -> float:
    """Return the rate where a share of the steps is done."""
    ends = np.cumsum([steps for _, steps in RATES]) / sum(steps for _, steps in RATES)
    return RATES[int(np.searchsorted(ends, done, side="right"))][0]


def unnaturalness(offsets: Tensor) -> Tensor:
    """Return half the weighted sums [N] of sixth powers and of squared differences to the next pixels."""
    right = (offsets[..., 1:] - offsets[..., :-1]).square().sum(dim=(1, 2, 3))
    down = (offsets[..., 1:, :] - offsets[..., :-1, :]).square().sum(dim=(1, 2, 3))
    powers = offsets.pow(ALPHA).sum(dim=(1, 2, 3))
    return (ALPHA_WEIGHT * powers + VARIATION_WEIGHT * (right + down)) / 2


def unit_name(subject: Subject, stage: str, unit: int) -> str:
    """Return the class that a unit of the last stage stands for, else its number."""
    return subject.info.classes[unit] if stage == subject.stages[-1] else f"unit {unit}"


def side_by_side(
    images: SearchedImages, real: Exciting, i: int, made: np.ndarray, shape: Sequence[int], spans: Spans | None
) -> np.ndarray:
    """Return what a unit sees of its best real image and of those made for it, uint8 [H, W, C]."""
    middle = (shape[1] // 2, shape[2] // 2) if len(shape) == 3 else (0, 0)
    place = int(real.rows[i, 0]), int(real.columns[i, 0])
    first = receptive_patch(images.pixels(real.places[i])[0], spans, *place, BEYOND)
    return mosaic(np.stack([first, *(receptive_patch(each, spans, *middle, BEYOND) for each in made)]), between=BEYOND)


def remarks(options: MaximiseOptions, images: SearchedImages) -> list[str]:
    """Return what a reader must know of how the images were made."""
    care = f"decay {options.decay:g}, blur of {options.blur:g} pixels every {options.blur_every} steps"
    care += f", {options.small_norm:.0%} of the pixels by norm" if options.small_norm else ""
    care += f", {options.small_contribution:.0%} by contribution" if options.small_contribution else ""
    how = care if options.prior == "yosinski" else "high powers of pixels and their differences held small"
    return [
        f"First the real image that excites the unit most, of {len(images):,} of the {images.name} split; then one "
        f"made from each of {options.starts} starts in {steps_of(options):,} steps ({options.prior}: {how}).",
        "Of a map the unit in the middle is excited, and compared with the largest value anywhere on a real image."
        if options.of == "unit"
        else "The mean of a map is excited, and compared with the largest one of real images.",
    ]
