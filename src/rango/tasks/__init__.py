"""What is asked: instances, splits, prompts, and one file per task."""

from rango.tasks.floor import expected_scores, true_log_posteriors
from rango.tasks.instance import Form, Instance, Prompt, Templates
from rango.tasks.loading import TASKS, load_task
from rango.tasks.shots import few_shot
from rango.tasks.simulated import simulated_narratives
from rango.tasks.task import Split, Task, TaskOptions, show, task_text

__all__ = [
    "TASKS",
    "Form",
    "Instance",
    "Prompt",
    "Split",
    "Task",
    "TaskOptions",
    "Templates",
    "expected_scores",
    "few_shot",
    "load_task",
    "show",
    "simulated_narratives",
    "task_text",
    "true_log_posteriors",
]
