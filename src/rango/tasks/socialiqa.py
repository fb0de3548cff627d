"""SocialIQA (Sap et al., 2019, arXiv:1904.09728): how people feel, what they do next and why; three answers.

The official validation split is the test set (the labels of the official test set are hidden); validation is carved
from the official training split.
"""

from __future__ import annotations

from pathlib import Path

from rango.errors import InputError
from rango.files import read_text
from rango.options import Prompts, TaskOptions
from rango.showing import count
from rango.tasks.harness import ready_made, socialiqa_prompt
from rango.tasks.sources import Repository, Row, check_folder, file_rows, find_file, hub_rows, located, text_of
from rango.tasks.splits import cut
from rango.tasks.task import Instance, Task, Templates, context_group

TEMPLATES = Templates(
    letter="{context}\nQuestion: {question}\n{choices}\nAnswer:",
    cloze="{context} Question: {question} Answer:",
)

# The original repository is a loading script, which `datasets` no longer runs: the maintained copy, then the Hub's own
# conversion of the original.
HUB = (Repository("lighteval/siqa"), Repository("allenai/social_i_qa", "refs/convert/parquet"))
FILES = "train.jsonl[.gz], train-labels.lst, dev.jsonl[.gz] and dev-labels.lst"
CHOICES = ("answerA", "answerB", "answerC")


def load_socialiqa(options: TaskOptions) -> Task:
    """How people feel, what they do next and why (SocialIQA); three answers. From the Hub or a folder.

    Raises:
        InputError: a missing file, rows and labels of different numbers, a label other than 1, 2, 3, a column that is
            missing (each with file and line), the Hub out of reach.
    """
    if options.data is None:
        train_rows, test_rows = hub_rows(HUB, ("train", "validation"), task="socialiqa", files=FILES)
    else:
        check_folder(options.data)
        train_rows, test_rows = folder_rows(options.data, "train"), folder_rows(options.data, "dev")
    train, test = (
        [read_row(row, part, prompts=options.prompt) for row in rows]
        for rows, part in ((train_rows, "train"), (test_rows, "dev"))
    )
    parts = cut(train, options, test=test)
    # They stay as published: without them, figures would not be those of other programs.
    drawn = (*parts.train, *parts.validation, *parts.test)
    twins = sum(len(set(instance.choices)) < len(CHOICES) for instance in drawn)
    note = f"{count(twins, 'instance')} with one answer twice, as published: the two share its probability"
    return Task(
        name="socialiqa",
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        write_prompt=TEMPLATES if options.prompt == "own" else ready_made,
        notes=(*parts.notes, *([note] if twins else [])),
        options=options,
        rest=parts.rest,
    )


def folder_rows(folder: Path, part: str) -> list[Row]:
    """The rows of `part` (train or dev) with their labels as a column; errors as in `load_socialiqa`."""
    path, labels_path = find_file(folder, [f"{part}.jsonl"]), find_file(folder, [f"{part}-labels.lst"])
    for file, name in ((path, f"{part}.jsonl"), (labels_path, f"{part}-labels.lst")):
        if file is None:
            raise InputError(f"{folder} holds no {name}; expected {FILES}")
    assert path is not None
    assert labels_path is not None
    rows = list(file_rows(path))
    labels = [
        (number, line.strip()) for number, line in enumerate(read_text(labels_path).split("\n"), 1) if line.strip()
    ]
    if len(rows) != len(labels):
        raise InputError(
            f"{labels_path} has {len(labels):,} labels but {path} has {len(rows):,} rows; expected one label a row"
        )
    # The label's own file and line are what a user has to look at when it is wrong.
    return [
        Row(row.number, row.where, {**row.values, "label": label, "label_at": f"{labels_path}:{number}"})
        for row, (number, label) in zip(rows, labels, strict=True)
    ]


def read_row(row: Row, part: str, need_label: bool = True, prompts: Prompts = "own") -> Instance:
    """The instance of a row; `part` begins its id.

    Raises:
        InputError: a column that is missing or no text, a label other than 1, 2, 3, or none where it is needed.
    """
    label = str(row.values.get("label", "")).strip()
    if label not in ("1", "2", "3") and (need_label or label not in ("", "None")):
        where = row.values.get("label_at", row.where)
        raise InputError(f"{where}: label is {label or 'missing'}; expected 1, 2 or 3 (answerA, answerB, answerC)")
    context, question = text_of(row, "context"), text_of(row, "question")
    choices = tuple(text_of(row, name) for name in CHOICES)
    identity, group = f"{part}:{row.number}", context_group(context)
    right = int(label) - 1 if label in ("1", "2", "3") else None
    prompt = socialiqa_prompt(row) if prompts == "lm-eval" else None
    with located(row.where):
        return Instance(identity, context, question, choices, right, group, where=row.where, prompt=prompt)
