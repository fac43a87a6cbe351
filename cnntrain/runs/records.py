"""Records of runs, evaluations and studies, validated as they are read.

A record may come from another version or from a hand. Keys that this version does not know stay; keys that older
versions did not have are given the value that they then meant. Everything else that is not as it should be is an
`InputError` with the file and the key.
"""

from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from cnntrain.config.build import SELECTION
from cnntrain.config.groups import CHOICES
from cnntrain.config.read import known_keys, require_names
from cnntrain.config.schema import Fit, Options
from cnntrain.config.validate import ANY, reject_unknown, signature, validated, wrong_type
from cnntrain.runs.folder import CONFIG, RECORD, RESULTS
from cnntrain.runtime.errors import InputError
from cnntrain.runtime.jsonfile import as_plain, read_json
from cnntrain.runtime.ranges import Count, Natural, Positive
from cnntrain.tasks import task_of
from cnntrain.tasks.classification import Majority
from cnntrain.tasks.task import Number

# What keys mean in the configuration of a run that was made before there were such keys.
BEFORE: Options = {"check_resume": False, "resume": "auto", "plugins": []}
TRAINER: Options = {
    "graph": "auto",
    "hinge": None,
    "border_weight": 0.0,
    "border_sigma": 5.0,
    "compile": False,
    "freeze": None,
    "frozen_mode": "evaluation",
    "resize": {},
    "profile": False,
    "gradients": False,
}
OPTIMIZER: Options = {"layer_decay": 1.0, "factors": {}}
MODEL: Options = {
    "remove": [],
    "widen": {},
    "append": {},
    "head": None,
    "antialias": False,
    "attention": False,
    "probe": {},
}

RENAMED = {"nin": ("head", "classifier")}  # options of models that had another name in runs made before


class Hardware(TypedDict):
    cpu: str
    cores: Count
    threads: Count
    gpus: list[str]


class Provenance(TypedDict):
    """Where a run, a part of it or an evaluation comes from."""

    argv: list[str]
    started: str
    cnntrain: str
    commit: str | None
    python: str
    platform: str
    versions: dict[str, str]
    environment: dict[str, str]


class SessionRecord(Provenance):
    from_step: Natural


class ImageCounts(TypedDict):
    """How many images a run had."""

    train: Natural
    val: NotRequired[Natural]
    test: NotRequired[Natural]


class DataRecord(TypedDict):
    """What a run's record says of its images."""

    name: str
    shape: list[Count]
    classes: list[str]
    mean: list[float]
    std: list[Positive]
    images: ImageCounts
    fingerprint: str
    targets: NotRequired[Literal["classes", "maps", "boxes"]]
    words: NotRequired[list[str]]
    folders: NotRequired[dict[str, str]]
    skipped: NotRequired[list[str]]


class RunRecord(Provenance):
    """`run.json`."""

    hardware: Hardware
    device: str
    precision: str
    seed: Natural
    data: DataRecord
    from_step: NotRequired[Natural]
    processes: NotRequired[Count]
    init_from: NotRequired[Options | None]
    sessions: NotRequired[list[SessionRecord]]
    seconds: NotRequired[float]
    exit: NotRequired[str]
    bad_batch: NotRequired[Options]
    made_from: NotRequired[str]
    made_from_weights: NotRequired[str]
    mode: NotRequired[str]
    stages: NotRequired[list[str]]


class ResultRecord(TypedDict):
    """`results.json` of a training; its numbers are those of its task."""

    steps: Natural | None
    epochs: Natural | None
    majority: NotRequired[Majority | None]
    samples_per_second: Number
    train: Options | None
    val: Options | None
    best: Options | None
    objective: Number
    run_dir: str
    resumed_from: Natural
    skipped: Natural
    seconds: float
    profile: NotRequired[Options]


class EvaluationProvenance(Provenance):
    """Where an evaluation comes from: `weights` and `images` are digests."""

    hardware: NotRequired[Hardware]
    device: str
    precision: str
    weights: str
    images: str
    other_dataset: NotRequired[Options | None]


class EvaluationRecord(TypedDict):
    """`results.json` of an evaluation, which holds the numbers of its task besides."""

    run_dir: str
    split: str
    dataset: str
    weights: str
    tta: str
    record: EvaluationProvenance


class CellRecord(TypedDict):
    """`cell.json` of a study, which holds the numbers of its task besides."""

    task: NotRequired[str]
    seconds: float


class LookRecord(TypedDict):
    seeds: list[int]
    level: float
    spent: float
    found: NotRequired[list[str]]


class LooksRecord(TypedDict):
    looks: list[LookRecord]


class SeedRecord(TypedDict):
    seed: int


class TestRecord(TypedDict):
    variant: str
    p: Number
    believable: bool | None
    parts: NotRequired[list[str]]


class StudyRecord(TypedDict):
    """`results.json` of a study."""

    rows: list[SeedRecord]
    table: list[TestRecord]
    interactions: NotRequired[list[TestRecord]]
    complete: bool


def read_record(path: Path, shape: Any) -> dict[str, Any]:
    """Return the object in a JSON file, of a shape that a TypedDict says."""
    record = read_json(path)
    require(path, record, shape)
    return record


def require(path: Path, value: Any, shape: Any, key: str = "") -> None:
    """Raise `InputError` naming a file and the first key that does not have the shape that a hint says."""
    members = get_args(shape)
    if is_typeddict(shape):
        if not isinstance(value, Mapping):
            raise in_file(path, wrong_type(key, value, dict))
        for name, hint in get_type_hints(shape, include_extras=True).items():
            where = f"{key}.{name}" if key else name
            if name in value:
                require(path, value[name], get_args(hint)[0] if get_origin(hint) is NotRequired else hint, where)
            elif name in shape.__required_keys__:
                raise InputError(f"{path}: {where} is missing")
    elif get_origin(shape) is list and isinstance(value, list):
        for place, item in enumerate(value):
            require(path, item, members[0], f"{key}[{place}]")
    elif get_origin(shape) is UnionType and is_typeddict(members[0]):  # or null
        if value is not None:
            require(path, value, members[0], key)
    else:
        try:
            if value is None and get_origin(shape) is dict:  # which a configuration may have for an empty one
                raise wrong_type(key, value, shape)
            validated(value, shape, key)
        except InputError as error:
            raise in_file(path, error) from error


def in_file(path: Path, error: InputError) -> InputError:
    """Name the file in which a key is wrong."""
    return InputError(f"{path}: {error}")


# The files of a run.


def settings(folder: Path) -> Options:
    """Return the configuration of a run, every option of a known model, dataset, optimizer and schedule among it."""
    path = folder / CONFIG
    config = BEFORE | read_json(path)
    try:
        require_names(Fit, config)
        config["model"] = with_new_name(config["model"])
        for key, group in CHOICES.items():
            for functions in (group.functions, group.auxiliary):
                if (name := config[key]["name"]) in functions:
                    config[key] = defaults(functions[name]) | config[key]
        for key, shared in (("model", MODEL), ("dataset", SELECTION), ("optimizer", OPTIMIZER)):
            config[key] = shared | config[key]
        if isinstance(config.get("trainer"), Mapping):
            config["trainer"] = TRAINER | config["trainer"]
        refuse_wrong(config)
    except InputError as error:
        raise in_file(path, error) from error
    return config


def with_new_name(model: Options) -> Options:
    """Return the options of a run's model with the name that an option of it has now."""
    before, now = RENAMED.get(model["name"], ("", ""))
    if before not in model or now in model:
        return model
    return {key: value for key, value in model.items() if key != before} | {now: model[before]}


def defaults(function: Any) -> Options:
    """Return the options of a function with their defaults, as JSON knows them."""
    return {name: as_plain(parameter.default) for name, parameter in signature(function).items()}


def refuse_wrong(config: Options) -> None:
    """Raise `InputError` for a key of a configuration that is missing, or of another kind than `fit` would take.

    Options of functions that only plugins know are not looked at; other groups than model and dataset may have options
    that are not known here, since no network hangs on them.
    """
    theirs = {name for name, group in CHOICES.items() if config[name]["name"] not in group.functions}
    known = {
        key: hint
        for key, hint in known_keys(Fit, config).items()
        if not ("." in key and key.partition(".")[0] in theirs)
    }
    for key, hint in known.items():
        if ANY in key:
            continue
        holder, (*groups, name) = config, key.split(".")
        for group in groups:
            holder = {} if (inner := holder.get(group)) is None else validated(inner, Options, group)
        if name in holder:
            validated(holder[name], hint, key)
        elif not groups:
            raise InputError(f"{key} is missing")
    for group in {"model", "dataset"} - theirs:
        reject_unknown(config[group], set(known), f"{group}.")


def record(folder: Path) -> dict[str, Any]:
    """Return what a run has noted of where it comes from."""
    path = folder / RECORD
    run_record = read_record(path, RunRecord)
    data = run_record["data"]
    if len(data["shape"]) != 3:
        raise InputError(f"{path}: data.shape={data['shape']} should be channels, height and width")
    for key in ("mean", "std"):
        if len(data[key]) != data["shape"][0]:
            raise InputError(f"{path}: data.{key}={data[key]} should have a number for each channel")
    if not data["classes"] or len(set(data["classes"])) < len(data["classes"]):
        raise InputError(f"{path}: data.classes should be names that differ")
    return run_record


def result(folder: Path) -> dict[str, Any]:
    """Return the numbers of a training."""
    path = folder / RESULTS
    numbers = read_record(path, ResultRecord)
    task = task_of(numbers)
    for key, shape in {"train": task.train_numbers, "val": task.val_numbers, "best": task.val_numbers}.items():
        if numbers[key] is not None:
            require(path, numbers[key], shape, key)
    return numbers


def cell(path: Path) -> dict[str, Any]:
    """Return what a study's cell measured."""
    numbers = read_record(path, CellRecord)
    require(path, numbers, task_of(numbers).cell_numbers)
    return numbers


def evaluation(folder: Path) -> dict[str, Any]:
    """Return the numbers of an evaluation."""
    path = folder / RESULTS
    scores = read_record(path, EvaluationRecord)
    require(path, scores, task_of(scores).eval_numbers)
    confusion = scores.get("confusion")
    if confusion is not None and {len(confusion), *map(len, confusion)} != {len(scores["per_class"])}:
        raise InputError(f"{path}: confusion should have a row and a column for each class")
    return scores
