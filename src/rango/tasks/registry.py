"""From a name or a path to a task."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rango.errors import InputError, unknown_name
from rango.options import TaskOptions
from rango.tasks.hellaswag import load_hellaswag
from rango.tasks.simulated import load_simulated, load_simulated_continuations
from rango.tasks.socialiqa import load_socialiqa
from rango.tasks.table import load_table
from rango.tasks.task import Task

TASKS: dict[str, Callable[[TaskOptions], Task]] = {
    "simulated": load_simulated,
    "simulated-continuations": load_simulated_continuations,
    "socialiqa": load_socialiqa,
    "hellaswag": load_hellaswag,
}
"""The tasks that have a name."""


def load_task(name_or_path: str | os.PathLike[str], options: TaskOptions | None = None, **overrides: Any) -> Task:
    """A task by name, or a table by the path of its rows, of its task.yaml, or of the folder that holds both.

    >>> task = load_task("simulated", train=100, validation=20, test=50)
    >>> len(task.train), len(task.test), task.n_choices
    (100, 50, 3)

    Args:
        name_or_path: a key of `TASKS`, or a path. A name wins over a folder of the same name; write ./NAME for that.
        options: data folder, sizes, seed; keys that are no task option (of a whole run's configuration) are ignored.
        **overrides: single options.

    Raises:
        InputError: an unknown name, data that is missing or malformed (file and line), an option out of range.
    """
    given = options or TaskOptions()
    values = {key: getattr(given, key) for key in TaskOptions.model_fields}
    chosen = TaskOptions.build({**values, **overrides}, where="task options")
    name = os.fspath(name_or_path)
    if name in TASKS:
        return TASKS[name](chosen)
    path = Path(name)
    if path.exists():
        return load_table(path, chosen)
    if os.sep in name or path.suffix:
        raise InputError(f"table {name} does not exist; give the path of a rows file, a task.yaml, or their folder")
    raise InputError(f"{unknown_name('task', name, TASKS)}; the path of a table works too")
