"""Readers of what a person writes or hands on: posteriors, tables, logs, costs, studies, calibrators, gates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_prepared import CLASSES, LOGS, Prepared, rewrite_unsealed, table_files, write_packed

from rango.errors import InputError


def posteriors_files(endings: Sequence[str]) -> Callable[[Path], Prepared]:
    def make(folder: Path) -> Prepared:
        from rango.decisions import Posteriors, read_posteriors, write_posteriors

        labels = np.array([0, 1, 2, 1])
        files = []
        for ending in endings:
            own = Posteriors.from_scores(LOGS, labels, list("wxyz"), ["g", "g", "h", ""], [CLASSES] * 4)
            bare = Posteriors.from_scores(LOGS[:, :2], labels[:2].repeat(2))
            for name, posteriors in (("own", own), ("bare", bare)):
                files.append(folder / f"{name}.{ending}")
                write_posteriors(files[-1], posteriors)
        other = {"ID": list("abcd"), "y_true": [1, 0, 1, 1], "prob_1": [0.2, 0.9, 0.5, 1.0]}
        files += table_files(folder, "other", endings, other)
        named = {
            "id": list("abcd"),
            "label": ["no", "yes", "no", "no"],
            "no": [0.5, 0.1, 0.9, 1],
            "yes": [0.5, 0.9, 0.1, 0],
        }
        files += table_files(folder, "named", endings, named)
        if "parquet" in endings:
            # Without the digest that would refuse every change before it is looked at.
            rewrite_unsealed(files)

        def read(file: Path) -> Any:
            posteriors = read_posteriors(file, need_labels=False)
            if posteriors.has_labels:
                return [posteriors.metric(name) for name in ("nce", "brier", "error_rate", "ece")]
            return posteriors.column_names

        words = (
            b"id label group choices type posteriors log_posteriors logits posterior_0 log_posterior_1 logit_2 choice_0"
        )
        more = b"y_true target prob p0 proba_1 logp probability_happy happy sad score yes_no [0.5,0.5] [1,0,0]"
        return Prepared(files, read, (words + b" " + more).split())

    return make


def table_task(endings: Sequence[str]) -> Callable[[Path], Prepared]:
    def make(folder: Path) -> Prepared:
        from rango.options import TaskOptions
        from rango.tasks.table import load_table

        columns = {
            "text": [f"Ann {'sings' if n % 2 else 'cries'} on day {n}" for n in range(6)],
            "mood": ["happy", "sad", "angry"] * 2,
            "key": list("123456"),
            "part": ["train", "train", "train", "validation", "test", "test"],
            "author": ["a", "b", "", "c", "d", "d"],
        }
        files = table_files(folder, "rows", endings, columns)
        settings = {
            "prompt": "{text}. Mood:",
            "choices": list(CLASSES),
            "label": "mood",
            "id": "key",
            "group": "author",
        }
        write_packed(folder / "task.yaml", yaml.safe_dump({**settings, "splits": "part"}, sort_keys=False))

        def read(file: Path) -> Any:
            task = load_table(file, TaskOptions())
            return [task.prompt(instance, form) for instance in task.test[:2] for form in ("letter", "cloze")]

        return Prepared(
            files, read, [b"text", b"mood", b"part", b"validation", b"A", b"0", b"angry", b"{text}", b"a.b"]
        )

    return make


def task_yaml(folder: Path) -> Prepared:
    from rango.options import TaskOptions
    from rango.tasks.table import load_table

    rows = [
        {
            "text": f"day {n}",
            "mood": CLASSES[n % 3],
            "own": ["a", "b"],
            "kind": "choice",
            "number": n,
            "place": n % 2,
            "nested": {"b": "x"},
        }
        for n in range(6)
    ]
    write_packed(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    files = [folder / "task.yaml", folder / "other.yaml"]
    settings = {"prompt": "{text} {nested.b}:", "choices": list(CLASSES), "label": "mood", "id": "number"}
    files[0].write_text(yaml.safe_dump(settings, sort_keys=False))
    files[1].write_text(
        "prompt: '{text}'\nchoices: own\nlabel: place\nlabel_is: index\ntype: score\nunlabelled: skip\n"
    )
    words = b"prompt choices label label_is type id group splits unlabelled private text mood own number nested.b index"
    return Prepared(files, lambda file: load_table(file, TaskOptions()), [*words.split(), b"{text}", b"{{", b"shares"])


def row_streams(folder: Path) -> Prepared:
    """The two readers of rows, at once and in parts: they give the same rows, or both refuse."""
    from rango.row_stream import identity, rows_of
    from rango.rows import read_rows

    endings = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
    columns = {"text": ["one", 'say "two"', "läuft", "4"], "n": [1, 2, 3, 4]}
    files = table_files(folder, "rows", endings, columns)

    def read(file: Path) -> Any:
        outcomes: list[Any] = []
        for reader in (read_rows, rows_of):
            try:
                identity(file)  # which refuses what is blank, before rows are read in parts
                outcomes.append(repr(list(reader(file))))  # a text, because NaN is not equal to itself
            except InputError as error:
                outcomes.append(error)
        refused = [isinstance(outcome, InputError) for outcome in outcomes]
        if refused[0] != refused[1] or (not refused[0] and outcomes[0] != outcomes[1]):
            raise AssertionError(
                f"read at once and in parts differ: {str(outcomes[0])[:200]} / {str(outcomes[1])[:200]}"
            )
        if refused[0]:
            raise outcomes[0]
        return outcomes

    return Prepared(files, read, [b"sep=;\n", b"text", b'"'])


def decision_log(folder: Path) -> Prepared:
    from rango.decisions import DecisionLog

    columns = {
        "id": list("abcdef"),
        "when": [
            "2026-01-01",
            "2026-01-02T10:00:00Z",
            "2026-01-02T10:00:00+02:00",
            "1767225600",
            "2026-02-01",
            "2026-02-02",
        ],
        "part": list("xxyyxx"),
        "label": ["no", "yes", "", "yes", "no", ""],
        "probability_no": [0.5, 0.2, 0.9, 1.0, 0.3, 0.4],
        "probability_yes": [0.5, 0.8, 0.1, 0.0, 0.7, 0.6],
        "decision": ["no", "yes", "no", "no", "yes", "yes"],
        "act": ["yes", "yes", "no", "yes", "yes", "no"],
    }
    files = table_files(folder, "log", ("csv", "jsonl", "parquet"), columns)

    def read(file: Path) -> Any:
        log = DecisionLog.read(file, time="when", by="part")
        for period in ("day", "week", "month", "2"):
            log.periods(period)
        return log.parts(), log.acted, log.labelled.metric("brier") if len(log.arrival) else None

    return Prepared(
        files, read, [b"9999-12-31T23:59:59-23:59", b"0001-01-01", b"-1e18", b"2026-W05", b"when", b"act", b"24:00"]
    )


def long_log(folder: Path) -> Prepared:
    """The same logs two rows at a time: what is read so is what the whole file says."""
    from unittest.mock import patch

    from rango.decisions import Costs, DecisionLog, long_logs, monitor

    prepared = decision_log(folder)
    matrix = Costs.zero_one(["no", "yes"])

    def parts(file: Path) -> Any:
        with patch.object(long_logs, "_PART", 2):
            options: Any = {"time": "when", "by": "part", "period": "month"}
            return long_logs.LongLog.read(file, **options, costs_for=lambda _: matrix, sample=True)

    def whole(file: Path) -> Any:
        return DecisionLog.read(file, time="when", by="part")

    def read(file: Path) -> Any:
        shown: list[Any] = []
        for reader in (parts, whole):
            try:
                report = monitor(reader(file), costs=matrix, period="month", training_priors=[0.4, 0.6], replicates=2)
                shown.append(report.as_dict())
            except InputError as error:
                shown.append(error)
        one, other = shown
        assert isinstance(one, InputError) == isinstance(other, InputError), f"{one!s:.300} beside {other!s:.300}"
        if isinstance(one, InputError):
            raise one
        for name in ("n", "labelled", "acted_on"):
            assert one["whole"][name] == other["whole"][name], name
            assert [(key, part[name]) for key, part in one["periods"].items()] == [
                (key, part[name]) for key, part in other["periods"].items()
            ], name
        for name in ("promised_cost",):
            np.testing.assert_allclose(one["whole"][name] or 0.0, other["whole"][name] or 0.0, rtol=1e-9)
        return one

    return Prepared(prepared.files, read, prepared.words)


def piped_rows(folder: Path) -> Prepared:
    """Rows of JSON on stdin, which come in pieces of any size."""
    from rango.training.prediction_pipe import stream_parts

    (folder / "rows.jsonl").write_text('\ufeff{"text": "Ann sings", "n": 1}\n\n{"text": "läuft", "mood": null}\n')

    def read(file: Path) -> Any:
        data = file.read_bytes()
        outcomes = []
        for size in (3, 1 << 20):
            pieces = iter([data[start : start + size] for start in range(0, len(data), size)])

            class Pipe:
                def read1(self, _: int, pieces: Any = pieces) -> bytes:
                    return next(pieces, b"")

            try:
                outcomes.append([row.values for part in stream_parts(Pipe()) for row in part])  # type: ignore[arg-type]
            except InputError as error:
                outcomes.append(str(error))
        assert repr(outcomes[0]) == repr(outcomes[1])
        if isinstance(outcomes[0], str):
            raise InputError(outcomes[0])
        return outcomes[0]

    return Prepared([folder / "rows.jsonl"], read, [b'"', b"{}", b"[", b"NaN", b"\xef\xbb\xbf", b"\n"])


def costs(folder: Path) -> Prepared:
    from rango.decisions import Posteriors, StatedCosts
    from rango.decisions.risk import expected_costs

    posteriors = Posteriors.from_scores(LOGS, np.array([0, 1, 2, 1]), choices=[CLASSES] * 4, types=["score"] * 4)
    names = "classes: [happy, sad, angry]\ndecisions: [happy, sad, angry, ask]\n"
    texts = {
        "matrix.yaml": names + "costs:\n- [0, 1, 1, 0.3]\n- [1, 0, 1, 0.3]\n- [9, 9, 0, 0.3]\n",
        "abstain.yaml": "abstain: 0.3\n",
        "distance.yaml": "distance: absolute\n",
        "bare.yaml": "costs: [[0, 1, 2], [1, 0, 1], [2, 1, 0]]\n",
    }
    files = [folder / name for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_packed(file, text)

    def read(file: Path) -> Any:
        stated = StatedCosts.read(str(file))
        matched = stated.for_posteriors(posteriors)
        return (
            stated.words,
            expected_costs(posteriors.log_posteriors, costs=matched),
            posteriors.metric("expected_cost", costs=matched),
        )

    return Prepared(files, read, b"classes decisions costs abstain distance squared happy ask".split())


def study_file(folder: Path) -> Prepared:
    from rango.studies.study_file import naming_lines, read_study

    values = {
        "name": "placement",
        "about": "Where should LoRA go?",
        "models": {
            "tiny": {"texts": "simulated", "hidden": 16, "layers": 1, "heads": 2, "vocabulary": 300, "tokens": 9000}
        },
        "base": {"model": "tiny", "task": "simulated", "form": "cloze", "train": 40, "steps": 30, "lora": {"rank": 2}},
        "vary": {"lora.targets": ["q", "q,v"], "learning-rate": [0.01, 0.001]},
        "runs": [{"adaptation": "none"}, {"lora.rank": 4}],
        "seeds": [0, 1],
        "select": "nce",
        "costs": {"abstain": 0.3},
        "tiny": {"base": {"train": 10}, "seeds": [0]},
    }
    search = {"base": {"model": "m", "task": "simulated"}, "search": {"space": {"lora.rank": [1, 2]}, "trials": 4}}
    files = [folder / "study.yaml", folder / "search.yaml"]
    for file, content in zip(files, (values, search), strict=True):
        write_packed(file, yaml.safe_dump(content, sort_keys=False))

    def read(file: Path) -> Any:
        try:
            study = read_study(file, tiny=file.name == "study.yaml")
            _, mistakes = study.without_mistakes()
            if mistakes:
                raise InputError(*mistakes)
            return list(zip(range(50), study.combinations(), strict=False))
        except InputError as error:
            raise naming_lines(error, file, tiny=True, changes=()) from None

    words = b"name about models base vary runs seeds select costs tiny search space trials lora.rank adaptation metrics"
    return Prepared(files, read, words.split())


def config_file(folder: Path) -> Prepared:
    from rango.config import underscored
    from rango.files import read_yaml
    from rango.language.options import PretrainConfig
    from rango.options import EvaluateConfig, FinetuneConfig

    configs = {
        "finetune.yaml": (
            FinetuneConfig,
            {"model": "m", "task": "simulated", "lora": {"rank": 2, "targets": "q,v"}, "learning-rate": 0.01},
        ),
        "evaluate.yaml": (EvaluateConfig, {"model": "m", "task": "simulated", "split": "test", "orders": 2}),
        "pretrain.yaml": (PretrainConfig, {"hidden": 16, "tokens": 1000}),
    }  # fmt: skip
    for name, (_, values) in configs.items():
        write_packed(folder / name, yaml.safe_dump(values, sort_keys=False))

    def read(file: Path) -> Any:
        kind: Any = configs[file.name][0]
        return kind.build(underscored(read_yaml(file), where=str(file)), where=str(file))

    words = (
        b"model task lora rank alpha rank_pattern layers targets steps batch seed form dtype device log_to optimizer"
    )
    return Prepared([folder / name for name in configs], read, words.split())


def calibrators(folder: Path) -> Prepared:
    from rango.decisions import Calibrator, Posteriors, fit_calibrator

    posteriors = Posteriors.from_scores(np.tile(LOGS, (5, 1)), np.array([0, 1, 2, 1] * 5), choices=[CLASSES] * 20)
    two = Posteriors.from_scores(np.tile(LOGS[:, :2], (5, 1)), np.array([0, 1, 1, 0] * 5))
    files = []
    for method in ("temperature", "bias", "affine", "vector", "matrix", "isotonic", "histogram"):
        of = two if method in ("isotonic", "histogram") else posteriors
        files.append(folder / f"{method}.json")
        files[-1].write_text(json.dumps(fit_calibrator(of, method=method).as_dict()))  # type: ignore[arg-type]

    def read(file: Path) -> Any:
        calibrator = Calibrator.read(file)
        return repr(calibrator), calibrator.apply(two if calibrator.method in ("isotonic", "histogram") else posteriors)

    return Prepared(
        files, read, b"method scale bias priors weights scales starts values edges report choices temperature".split()
    )


def gates(folder: Path) -> Prepared:
    from rango.decisions import Costs, Gate, Posteriors, gate

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    scores = 2 * np.eye(3)[labels] + rng.normal(size=(60, 3))
    posteriors = Posteriors.from_scores(scores, labels, choices=[CLASSES] * 60)
    files = [folder / "costs.json", folder / "error.json", folder / "precision.json"]
    gate(posteriors, costs=Costs.zero_one(CLASSES).with_abstention(0.3)).write(files[0])
    gate(posteriors, max_error=0.3).write(files[1])
    gate(posteriors, precision={"happy": 0.5}).write(files[2])

    def read(file: Path) -> Any:
        chosen = Gate.load(file)
        return repr(chosen), chosen._repr_html_(), chosen.decide(posteriors)

    return Prepared(
        files,
        read,
        b"always never threshold limit class_limits max_error precision costs pass_on level choices abstain".split(),
    )


def baselines(folder: Path) -> Prepared:
    from helpers.made_logs import COSTS, make_log

    from rango.decisions import Baseline

    log = make_log(40)
    files = [folder / "baseline.json", folder / "costs.json"]
    Baseline.of(log, replicates=20).write(files[0])
    Baseline.of(log, costs=COSTS, replicates=20).write(files[1])

    def read(file: Path) -> Any:
        baseline = Baseline.load(file)
        baseline.check_kind(log)
        rows = baseline.shared_rows(log.labelled)
        return repr(baseline), None if rows is None else baseline.check(log, *rows, replicates=5)

    return Prepared(
        files, read, b"limits margin values priors choices costs instances ids labels acts losses nce keep".split()
    )
