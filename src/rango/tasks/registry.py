"""From a name or a path to a task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from rango.errors import InputError, unknown_name
from rango.frames import frame_rows, is_frame
from rango.keywords import TaskKeywords
from rango.options import Prompts, TaskOptions
from rango.tasks import hellaswag, socialiqa
from rango.tasks.harness import ready_made
from rango.tasks.hellaswag import load_hellaswag
from rango.tasks.simulated import (
    CONTINUATION_TEMPLATES,
    QUESTION_TEMPLATES,
    load_simulated,
    load_simulated_continuations,
)
from rango.tasks.simulated_levels import load_simulated_levels, load_simulated_yes_no
from rango.tasks.socialiqa import load_socialiqa
from rango.tasks.sources import Row
from rango.tasks.table import TEMPLATES, further_instances, load_table, table_task
from rango.tasks.table_config import TableConfig
from rango.tasks.task import Instance, Task, Templates

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

TASKS: dict[str, Callable[[TaskOptions], Task]] = {
    "simulated": load_simulated,
    "simulated-continuations": load_simulated_continuations,
    "simulated-yes-no": load_simulated_yes_no,
    "simulated-levels": load_simulated_levels,
    "socialiqa": load_socialiqa,
    "hellaswag": load_hellaswag,
}
"""The tasks that have a name."""

_ROW_READERS: dict[str, tuple[Callable[[Row, str, bool, Prompts], Instance], Templates]] = {
    "socialiqa": (socialiqa.read_row, socialiqa.TEMPLATES),
    "hellaswag": (hellaswag.read_row, hellaswag.TEMPLATES),
}
"""Those of them that are read from rows, with their words."""


def task_words(name: str, *, table: Mapping[str, Any] | None) -> Templates:
    """The words that a task's instances are put into; those of a table where `table` has its keys."""
    made = {"simulated": QUESTION_TEMPLATES, "simulated-continuations": CONTINUATION_TEMPLATES}
    made |= dict.fromkeys(("simulated-yes-no", "simulated-levels"), QUESTION_TEMPLATES)
    named = made | {known: templates for known, (_, templates) in _ROW_READERS.items()}
    return named.get(name, TEMPLATES) if table is None else TEMPLATES


def load_task(
    source: str | os.PathLike[str] | IntoDataFrame,
    options: TaskOptions | None = None,
    *,
    table: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    **overrides: Unpack[TaskKeywords],
) -> Task:
    """A task by name, a table by the path of its rows, of its task.yaml, or of the folder of both, or a data frame.

    >>> task = load_task("simulated", train=100, validation=20, test=50)
    >>> len(task.train), len(task.test), task.n_choices
    (100, 50, 3)

    Args:
        source: a key of `TASKS`, a path, or a data frame of pandas, Polars or Arrow. A name wins over a folder of the
            same name; write ./NAME for that.
        table: of a frame, how to ask: the keys of a task.yaml (prompt, choices, label, …) or the path of one. Its rows
            are checked as those of a file.
        options: data folder, sizes, seed; keys that are no task option (of a whole run's configuration) are ignored.
        **overrides: single options.

    Raises:
        InputError: an unknown name, data that is missing or malformed (file and line), an option out of range, a frame
            without `table`, or `table` without a frame.
    """
    given = options or TaskOptions()
    values = {key: getattr(given, key) for key in TaskOptions.model_fields}
    chosen = TaskOptions.build({**values, **overrides}, where="task options")
    if is_frame(source):
        return _frame_task(source, table, chosen)
    if table is not None:
        raise InputError("table says how to ask the rows of a data frame; a path has its own task.yaml, leave it out")
    name = os.fspath(cast("str | os.PathLike[str]", source))
    if chosen.prompt != "own" and name not in _ROW_READERS:
        raise InputError(
            f"prompt is {chosen.prompt} but lm-evaluation-harness has no task {name}: only {' and '.join(_ROW_READERS)}"
        )
    if name in TASKS:
        return TASKS[name](chosen)
    path = Path(name)
    if path.exists():
        return load_table(path, chosen)
    if os.sep in name or path.suffix:
        raise InputError(f"table {name} does not exist; give the path of a rows file, a task.yaml, or their folder")
    raise InputError(f"{unknown_name('task', name, TASKS)}; the path of a table works too")


def _frame_task(frame: Any, table: Mapping[str, Any] | str | os.PathLike[str] | None, options: TaskOptions) -> Task:
    if table is None:
        raise InputError(
            "table is missing; give the keys of a task.yaml, such as prompt, choices and label, or its path"
        )
    if options.data is not None:
        raise InputError(f"data is {str(options.data)!r} but the task is a data frame; leave the option out")
    if isinstance(table, Mapping):
        path, config = Path("table"), TableConfig.build(table, where="table")
    else:
        path = Path(table)
        config = TableConfig.from_yaml(path)
    rows = (Row(number, f"row {number}", row) for number, row in enumerate(frame_rows(frame), start=1))
    return table_task(config, rows, source=path, name="frame", options=options)


def load_further(
    name: str,
    rows: Iterable[Row],
    *,
    table: Mapping[str, Any] | None,
    source: Path,
    prompts: Prompts = "own",
    columns: set[str] | None = None,
) -> Task:
    """Rows that came after a model was trained on a task, as the test split of a task that asks in the same words.

    Each row gives an instance, in the order of the rows; its label may be missing.

    Args:
        name: the task's name, or the path of the table.
        rows: with the columns that the task's own rows have.
        table: the table's keys, as `Task.table` has them; None for a task with a name.
        source: the file that `table` is from, for messages.
        prompts: whose words the model was trained with.
        columns: as in `further_instances`, of the parts of a table that were read before.

    Raises:
        InputError: no rows, a row that the task's own loader would refuse, a task whose instances are generated.
    """
    if table is not None:
        config = TableConfig.build(dict(table), where=str(source))
        instances = further_instances(config, rows, source=source, columns=columns)
        templates = TEMPLATES
    elif name in _ROW_READERS:
        read, templates = _ROW_READERS[name]
        instances = tuple(read(row, "new", False, prompts) for row in rows)
    else:
        raise InputError(
            f"{source}: rows of the task {name} cannot be read; it is generated, or its run.yaml has no `table` "
            "(repeat the run with this version)"
        )
    if not instances:
        raise InputError("there are no rows; give at least one")
    return Task(name, (), (), instances, templates if prompts == "own" else ready_made, table=table)
