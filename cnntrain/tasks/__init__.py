"""What a network is asked for: the tasks by name, and which one a dataset or a result belongs to."""

from collections.abc import Mapping
from typing import Any

from cnntrain.data.storage.images import DatasetInfo
from cnntrain.runtime.errors import unknown
from cnntrain.tasks.classification import Classification
from cnntrain.tasks.detection import Detection
from cnntrain.tasks.segmentation import Segmentation
from cnntrain.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Segmentation, Detection)}


def kind_of(info: DatasetInfo) -> type[Task]:
    """Return the task that a dataset's targets ask for."""
    return next(task for task in TASKS.values() if task.targets == info.targets)


def task_for(info: DatasetInfo) -> Task:
    """Return the task that a dataset's targets ask for, with its plain loss."""
    return kind_of(info).of(info)


def task_of(result: Mapping[str, Any]) -> type[Task]:
    """Return the task of a record: of a line of the loop, a run's, an evaluation's or a study's results.

    One that names none is a classification's. Raises `InputError` for a name that is no task's.
    """
    name = str(result.get("task", "classification"))
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
