"""What is asked: instances, splits, prompts, and one file per task."""

from rango.options import Form, Split, TaskOptions
from rango.tasks.registry import TASKS, load_task
from rango.tasks.simulated import simulated_narratives, true_log_posteriors
from rango.tasks.task import Instance, Prompt, Task, Templates, few_shot, show, task_text

__all__ = [
    "TASKS",
    "Form",
    "Instance",
    "Prompt",
    "Split",
    "Task",
    "TaskOptions",
    "Templates",
    "few_shot",
    "load_task",
    "show",
    "simulated_narratives",
    "task_text",
    "true_log_posteriors",
]
