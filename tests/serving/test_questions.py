"""Questions in the words of a run: its own, and others in its style."""

from __future__ import annotations

from typing import Any

import pytest

from rango.errors import InputError
from rango.serving.questions import Prepared, TrainedTask, ask
from rango.serving.wire import ChoiceQuestion, NoulCriteria, NoulQuestion, ScoreQuestion
from rango.tasks.registry import task_words
from rango.tasks.table_config import TableConfig

TABLE = TableConfig(prompt="Ticket: {text}\nTopic:", choices=("bill", "bug"), label="topic")
TICKETS = TrainedTask(task_words("t", table={}), "cloze", ("bill", "bug"), 2, TABLE)
SOCIAL = TrainedTask(task_words("socialiqa", table=None), "letter", None, 3)


def choice(*labels: str, instructions: Any = None, **described: str) -> ChoiceQuestion:
    return ChoiceQuestion(type="choice", instructions=instructions, criteria=dict.fromkeys(labels) | described)


def words(prepared: Prepared, task: TrainedTask) -> tuple[str, tuple[str, ...]]:
    assert prepared.instance is not None
    prompt = task.words(prepared.instance, prepared.form)
    return prompt.trunk, prompt.branches


@pytest.mark.parametrize("state", ["It fails.", {"text": "It fails."}, "Ticket: It fails.\nTopic:"])
def test_the_run_s_own_question_is_its_prompt_word_for_word(state: Any) -> None:
    prepared = ask("q", choice("bill", "bug"), state=state, task=TICKETS)
    assert words(prepared, TICKETS) == ("Ticket: It fails.\nTopic:", (" bill", " bug"))
    assert prepared.foreign is None


@pytest.mark.parametrize(
    ("question", "state", "why"),
    [
        (choice("bill", "crash"), "x", "trained on the labels bill, bug"),
        (choice("bill", "bug", instructions="Which?"), "x", "without instructions"),
        (choice("bill", bug="it fails"), "x", "without descriptions"),
        (choice("bill", "bug"), {"body": "x"}, "names ('Ticket: {text}"),
        (choice("bill", "bug"), ["x"], "names ('Ticket: {text}"),
        (ScoreQuestion(type="score", criteria=["bug", "bill"]), "x", "levels in the order bill, bug"),
    ],
)
def test_any_other_question_says_why_it_is_one(question: Any, state: Any, why: str) -> None:
    assert why in (ask("q", question, state=state, task=TICKETS).foreign or "")


def test_a_task_with_questions_is_asked_with_instructions() -> None:
    """SocialIQA: the state is the context, the instructions are the question, the labels are the answers."""
    own = ask("q", choice("a", "b", "c", instructions="Why?"), state="Sam ran.", task=SOCIAL)
    assert words(own, SOCIAL) == ("Sam ran.\nQuestion: Why?\nA. a\nB. b\nC. c\nAnswer:", (" A", " B", " C"))
    assert own.foreign is None
    assert "with a question" in (ask("q", choice("a", "b", "c"), state="Sam ran.", task=SOCIAL).foreign or "")
    two = ask("q", choice("a", "b", instructions="Why?"), state="Sam ran.", task=SOCIAL)
    assert two.foreign == "the run was trained on 3 choices"
    assert "plain texts" in (
        ask("q", choice("a", "b", "c", instructions="Why?"), state=["x"], task=SOCIAL).foreign or ""
    )


def test_descriptions_stand_beside_letters_and_in_a_list_before_texts() -> None:
    question = choice("a", b="the second", instructions="Which?")
    assert "A. a\nB. b: the second" in words(ask("q", question, state="s", task=SOCIAL), SOCIAL)[0]
    trunk, branches = words(ask("q", question, state="s", task=TICKETS), TICKETS)
    assert (trunk, branches) == ("s\nWhich?\na\nb: the second", (" a", " b"))


def test_levels_are_listed_and_answered_by_number_where_texts_are_scored() -> None:
    levels = ScoreQuestion(type="score", instructions="How bad?", criteria=["can wait", {"when": "today"}])
    trunk, branches = words(ask("q", levels, state="s", task=TICKETS), TICKETS)
    assert (trunk, branches) == ("s\nHow bad?\n0: can wait\n1: when: today", (" 0", " 1"))
    assert "A. can wait\nB. when: today" in words(ask("q", levels, state="s", task=SOCIAL), SOCIAL)[0]


def test_yes_or_no_is_asked_as_the_run_spells_it() -> None:
    question = NoulQuestion(type="noul", instructions="Is it?")
    general = ask("q", question, state="s", task=TICKETS)
    assert (general.names, words(general, TICKETS)[1]) == (("true", "false"), (" yes", " no"))
    own = TrainedTask(TICKETS.words, "cloze", ("False", "True"), 2)
    spelt = ask("q", question, state="s", task=own)
    assert (spelt.names, words(spelt, own)[1]) == (("false", "true"), (" False", " True"))


def test_yes_or_no_beside_other_questions_is_asked_in_the_order_of_training() -> None:
    """A description that only repeats the label describes nothing, so that the question stays the run's own."""
    table = TableConfig(prompt="{state} {question}", choices="options", label="answer", type="kind")
    mixed = TrainedTask(task_words("t", table={}), "letter", None, 3, table, None, ("no", "yes"))
    question = NoulQuestion(type="noul", criteria=NoulCriteria(true="yes", false="no"))
    prepared = ask("q", question, state="It fails. Is it urgent?", task=mixed)
    assert (prepared.names, prepared.foreign) == (("false", "true"), None)
    assert "A. no\nB. yes" in words(prepared, mixed)[0]
    described = NoulQuestion(type="noul", criteria=NoulCriteria(true="it is urgent", false="no"))
    assert "without descriptions" in (ask("q", described, state="It fails. So?", task=mixed).foreign or "")


def test_more_labels_than_letters_are_scored_as_texts_and_one_needs_no_score() -> None:
    many = ask("q", choice(*(f"l{n}" for n in range(27)), instructions="?"), state="s", task=SOCIAL)
    assert many.form == "cloze"
    assert ask("q", choice("a"), state="s", task=SOCIAL).instance is None
    with pytest.raises(InputError, match="are blank"):
        ask("q", choice("a", "b"), state="  ", task=SOCIAL)
