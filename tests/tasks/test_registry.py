"""From a name or a path to a task, and what is refused on the way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rango.errors import InputError
from rango.options import TaskOptions
from rango.tasks import TASKS, Task, load_task


@pytest.fixture
def task() -> Task:
    return load_task("simulated", train=8, validation=3, test=4)


def test_an_unknown_task_names_the_nearest_and_tables() -> None:
    with pytest.raises(InputError, match=r"^unknown task 'socialqa': did you mean 'socialiqa'\? .*the path of a table"):
        load_task("socialqa")


@pytest.mark.parametrize("path", ["gone/rows.jsonl", "gone.csv", "./gone"])
def test_a_path_that_does_not_exist(path: str) -> None:
    with pytest.raises(InputError, match=f"table {path} does not exist; give the path of a rows file"):
        load_task(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"train": 0}, "task options: train is 0: input should be greater than or equal to 1"),
        ({"tests": 5}, "unknown key in task options 'tests': did you mean 'test'?"),
        ({"words": "both"}, "task options: words is 'both'"),
    ],
)
def test_bad_options(override: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        load_task("simulated", **override)


def test_options_and_overrides(task: Task) -> None:
    options = TaskOptions(train=8, validation=3, test=4)
    assert load_task("simulated", options).fingerprint == task.fingerprint
    assert load_task("simulated", options, train=2).options == options.model_copy(update={"train": 2})
    # A whole run's configuration holds the task's options among others.
    whole = SimpleNamespace(**dict(options), learning_rate=1e-3)
    assert load_task("simulated", whole).fingerprint == task.fingerprint  # type: ignore[arg-type]


def test_every_task_says_in_its_first_line_what_it_is() -> None:
    for loader in TASKS.values():
        first = (loader.__doc__ or "").splitlines()[0]
        assert 40 < len(first) < 110
        assert first.endswith(".")
