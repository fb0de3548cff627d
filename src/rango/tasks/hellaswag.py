"""HellaSwag (Zellers et al., 2019, arXiv:1905.07830): which of four endings continues a text.

The official validation split is the test set; validation is carved from the official training split. A folder without
the official training file is cut into all three splits, stratified by domain (ActivityNet or WikiHow).
One video or article gives several instances, and the context of one can hold the right ending of another: instances
that share a run of words stay on one side of every cut (see `overlap`).
Instances of 100 words or more are left out, as in the reference experiment. Words are what white space separates, after
the markers are removed. `words` says what is counted: the context and the right ending (`right`, the default: 97.6 % of
the validation file stay), or the context and all four endings (`all`: 29.0 % stay, nearly all of them ActivityNet).
"""

from __future__ import annotations

import re
from pathlib import Path

from rango.errors import InputError
from rango.options import Prompts, TaskOptions, Words
from rango.tasks.harness import hellaswag_prompt, ready_made
from rango.tasks.sources import Repository, Row, check_folder, file_rows, find_file, hub_rows, located, text_of
from rango.tasks.splits import cut, group_overlapping
from rango.tasks.task import Instance, Task, Templates, context_group

TEMPLATES = Templates(
    letter="{context}\nWhat comes next?\n{choices}\nAnswer:",
    cloze="{context}",
)

HUB = (Repository("Rowan/hellaswag"),)
TRAIN_FILES = ("hellaswag_train.jsonl", "train.jsonl")
VALIDATION_FILES = ("hellaswag_val.jsonl", "validation.jsonl", "val.jsonl")
# A part of the official training file: too few to train on as the experiment asks, and text to pre-train on.
SUBSET_FILES = ("hellaswag_train_subset.jsonl",)
FILES = "hellaswag_train.jsonl[.gz] and hellaswag_val.jsonl[.gz], or the second alone"
WORD_LIMIT = 100

_MARKER = re.compile(r"\[(?:header|title|step|substeps)\]")


def load_hellaswag(options: TaskOptions) -> Task:
    """Which of four endings continues a text (HellaSwag). From the Hub, a folder or one JSONL file.

    Raises:
        InputError: a missing file, fewer than four endings, a label that is missing or not 0..3 (each with file and
            line), the Hub out of reach.
    """
    notes: list[str] = []
    train_rows, validation_rows, extra_rows = _rows(options.data)
    pools = [_kept(validation_rows, "validation", options, notes)]
    pools += [_kept(train_rows, "training", options, notes)] if train_rows else [[]]
    pools += [_kept(extra_rows, "training subset", options, notes)] if extra_rows else [[]]
    # Instances of one video or article get one group, whichever file they are from.
    linked = iter(group_overlapping([instance for pool in pools for instance in pool]))
    validation, train, extra = ([next(linked) for _ in pool] for pool in pools)
    if train:
        parts = cut(train, options, test=validation, stratum=domain)
    else:
        notes.append(
            "no official training file: the three splits are cut from the validation file, stratified by domain"
        )
        parts = cut(validation, options, stratum=domain)
    rest = parts.rest
    if extra:
        # Whatever the validation file holds stays out, in the splits or not.
        held = {instance.group for instance in validation}
        apart = tuple(instance for instance in extra if instance.group not in held)
        rest += apart
        notes.append(f"{len(apart):,} instances of the training subset serve as text to pre-train on only")
    return Task(
        name="hellaswag",
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        write_prompt=TEMPLATES if options.prompt == "own" else ready_made,
        notes=(*notes, *parts.notes),
        options=options,
        rest=rest,
    )


def _rows(data: Path | None) -> tuple[list[Row], list[Row], list[Row]]:
    """Rows of the training file, of the validation file and of the training subset; empty where there is none."""
    if data is None:
        train, validation = hub_rows(HUB, ("train", "validation"), task="hellaswag", files=FILES)
        return train, validation, []
    check_folder(data)
    if data.is_file():
        return [], list(file_rows(data)), []
    train_path, validation_path = find_file(data, TRAIN_FILES), find_file(data, VALIDATION_FILES)
    if validation_path is None:
        raise InputError(f"{data} holds no {VALIDATION_FILES[0]}; expected {FILES}")
    if train_path is not None:
        return list(file_rows(train_path)), list(file_rows(validation_path)), []
    # The subset is read only where the whole training file is missing: it is a part of it.
    subset_path = find_file(data, SUBSET_FILES)
    return [], list(file_rows(validation_path)), [] if subset_path is None else list(file_rows(subset_path))


def _kept(rows: list[Row], part: str, options: TaskOptions, notes: list[str]) -> list[Instance]:
    """The instances under the word limit."""
    read = (read_row(row, part, prompts=options.prompt) for row in rows)
    kept = [instance for instance in read if words_of(instance, options.words) < WORD_LIMIT]
    counted = "context and right ending" if options.words == "right" else "context and all four endings"
    notes.append(f"kept {len(kept):,} of {len(rows):,} {part} instances: those under {WORD_LIMIT} words of {counted}")
    return kept


def words_of(instance: Instance, words: Words) -> int:
    """Number of words of the context and the right ending, or of the context and all endings."""
    counted = instance.choices if words == "all" else (instance.choices[instance.answer],)
    return sum(len(text.split()) for text in (instance.context, *counted))


def clean(text: str) -> str:
    """Text without the WikiHow markers: ` [title]` ends a sentence, the others go; runs of spaces become one.

    >>> clean("[header] How to sing [title] Begin softly. [step] Breathe in.")
    'How to sing. Begin softly. Breathe in.'
    """
    return " ".join(_MARKER.sub("", text.replace(" [title]", ". ")).split())


def domain(instance: Instance) -> str:
    """Where the text comes from: activitynet, wikihow, or unknown."""
    return (instance.fields or {}).get("domain", "unknown")


def read_row(row: Row, part: str, need_label: bool = True, prompts: Prompts = "own") -> Instance:
    """The instance of a row; `part` begins its id.

    Raises:
        InputError: a text that is missing, other than four endings, a label outside 0..3, or none where it is needed.
    """
    values = row.values
    parts = ["ctx"] if "ctx" in values else ["ctx_a", "ctx_b"] if values.get("ctx_b") not in (None, "") else ["ctx_a"]
    raw = " ".join(text_of(row, part) for part in parts)
    endings = values.get("endings")
    if not isinstance(endings, list) or len(endings) != 4 or not all(isinstance(e, str) for e in endings):
        seen = f"{len(endings)} endings" if isinstance(endings, list) else "no list of endings"
        raise InputError(f"{row.where}: {seen}; expected 4 texts")
    label = str(values.get("label", "")).strip()
    if label not in ("0", "1", "2", "3") and (need_label or label not in ("", "None")):
        hint = "missing (the official test file has none)" if label in ("", "None") else label
        raise InputError(f"{row.where}: label is {hint}; expected 0, 1, 2 or 3")
    # `source_id` is DOMAIN~ID; only texts of WikiHow have markers.
    source = values.get("domain") or str(values.get("source_id") or "").partition("~")[0]
    source = source or ("wikihow" if _MARKER.search(raw) else "unknown")
    context = clean(raw)
    with located(row.where):
        return Instance(
            id=f"{part.replace(' ', '-')}:{row.number}",
            context=context,
            question="",
            choices=tuple(clean(ending) for ending in endings),
            label=int(label) if label.isdecimal() else None,
            group=context_group(context),
            fields={"domain": str(source)},
            where=row.where,
            prompt=hellaswag_prompt(row) if prompts == "lm-eval" else None,
        )
