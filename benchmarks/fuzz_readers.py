"""What `fuzz` attacks: for each reader a small folder of valid files, and how Rango's commands read one of them.

A reader raises InputError (`WrongAnswerError` for what an endpoint sends) for what it refuses; everything else is a
fault. What was read is used as the next step of a command would, since a value that nobody checked ends there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rango.errors import InputError

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # its helpers make tiny models

CLASSES = ("happy", "sad", "angry")
_LOGS = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.5, 0.3, 0.2]])


@dataclass(frozen=True)
class Prepared:
    """A folder of valid files."""

    files: Sequence[Path]
    """Those that are mutated, one at a time."""
    read: Callable[[Path], Any]
    """Reads the one that was mutated, with whatever belongs to it."""
    words: Sequence[bytes] = ()
    """What means something in the format."""


def posteriors_files(endings: Sequence[str]) -> Callable[[Path], Prepared]:
    def make(folder: Path) -> Prepared:
        from rango.decisions import Posteriors, read_posteriors, write_posteriors

        labels = np.array([0, 1, 2, 1])
        files = []
        for ending in endings:
            own = Posteriors.from_scores(_LOGS, labels, list("wxyz"), ["g", "g", "h", ""], [CLASSES] * 4)
            bare = Posteriors.from_scores(_LOGS[:, :2], labels[:2].repeat(2))
            for name, posteriors in (("own", own), ("bare", bare)):
                files.append(folder / f"{name}.{ending}")
                write_posteriors(files[-1], posteriors)
        other = {"ID": list("abcd"), "y_true": [1, 0, 1, 1], "prob_1": [0.2, 0.9, 0.5, 1.0]}
        files += _table(folder, "other", endings, other)
        named = {
            "id": list("abcd"),
            "label": ["no", "yes", "no", "no"],
            "no": [0.5, 0.1, 0.9, 1],
            "yes": [0.5, 0.9, 0.1, 0],
        }
        files += _table(folder, "named", endings, named)
        if "parquet" in endings:
            # Without the digest that would refuse every change before it is looked at.
            _rewrite_unsealed(files)

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


def _table(folder: Path, name: str, endings: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[Path]:
    """A table in each of the formats."""
    files = []
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for ending in endings:
        file = folder / f"{name}.{ending}"
        if ending == "npz":
            np.savez(file, **{key: np.array(values) for key, values in columns.items()})
        elif ending == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), file)
        elif ending.startswith("jsonl"):
            _write(file, "".join(json.dumps(row) + "\n" for row in rows))
        else:
            sign = "\t" if ending.startswith("tsv") else ","
            lines = [sign.join(columns), *(sign.join(str(value) for value in row.values()) for row in rows)]
            _write(file, "\n".join(lines) + "\n")
        files.append(file)
    return files


def _write(file: Path, text: str) -> None:
    import gzip

    data = text.encode()
    file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)


def _rewrite_unsealed(files: Sequence[Path]) -> None:
    import pyarrow.parquet as pq

    for file in files:
        pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)


def _unsealed_yaml(file: Path) -> None:
    """A YAML file without its digest, which would refuse every change before it is looked at."""
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "rango-sha256" not in line))


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
        files = _table(folder, "rows", endings, columns)
        settings = {
            "prompt": "{text}. Mood:",
            "choices": list(CLASSES),
            "label": "mood",
            "id": "key",
            "group": "author",
        }
        _write(folder / "task.yaml", yaml.safe_dump({**settings, "splits": "part"}, sort_keys=False))

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
    _write(folder / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
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
    files = _table(folder, "rows", endings, columns)

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
    files = _table(folder, "log", ("csv", "jsonl", "parquet"), columns)

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

    posteriors = Posteriors.from_scores(_LOGS, np.array([0, 1, 2, 1]), choices=[CLASSES] * 4, types=["score"] * 4)
    names = "classes: [happy, sad, angry]\ndecisions: [happy, sad, angry, ask]\n"
    texts = {
        "matrix.yaml": names + "costs:\n- [0, 1, 1, 0.3]\n- [1, 0, 1, 0.3]\n- [9, 9, 0, 0.3]\n",
        "abstain.yaml": "abstain: 0.3\n",
        "distance.yaml": "distance: absolute\n",
        "bare.yaml": "costs: [[0, 1, 2], [1, 0, 1], [2, 1, 0]]\n",
    }
    files = [folder / name for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        _write(file, text)

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
        _write(file, yaml.safe_dump(content, sort_keys=False))

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
        _write(folder / name, yaml.safe_dump(values, sort_keys=False))

    def read(file: Path) -> Any:
        kind: Any = configs[file.name][0]
        return kind.build(underscored(read_yaml(file), where=str(file)), where=str(file))

    words = (
        b"model task lora rank alpha rank_pattern layers targets steps batch seed form dtype device log_to optimizer"
    )
    return Prepared([folder / name for name in configs], read, words.split())


def calibrators(folder: Path) -> Prepared:
    from rango.decisions import Calibrator, Posteriors, fit_calibrator

    posteriors = Posteriors.from_scores(np.tile(_LOGS, (5, 1)), np.array([0, 1, 2, 1] * 5), choices=[CLASSES] * 20)
    two = Posteriors.from_scores(np.tile(_LOGS[:, :2], (5, 1)), np.array([0, 1, 1, 0] * 5))
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


def arpa(folder: Path) -> Prepared:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from rango.language.arpa import read_arpa

    words = Tokenizer(
        models.WordLevel({w: n for n, w in enumerate(("<|endoftext|>", "<unk>", "a", "b", "c"))}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|endoftext|>", unk_token="<unk>")
    text = (
        "\\data\\\nngram 1=5\nngram 2=4\nngram 3=1\n\n\\1-grams:\n-99\t<s>\t-0.3\n-0.7\t</s>\n-0.5\ta\t-0.2\n"
        "-0.6\tb\t-0.1\n"
        "-0.9\tc\t0.0\n\n\\2-grams:\n-0.3\t<s> a\t-0.1\n-0.4\ta b\t-0.2\n-0.2\tb </s>\n-1.0\ta c\t0.1\n\n\\3-grams:\n"
        "-0.1\t<s> a b\n\n\\end\\\n"
    )
    for name in ("model.arpa", "model.arpa.gz"):
        _write(folder / name, text)

    def read(file: Path) -> Any:
        import torch

        return read_arpa(file, tokenizer).network(torch.tensor([[0, 2, 3, 0]])).logits

    return Prepared(
        [folder / "model.arpa", folder / "model.arpa.gz"],
        read,
        [b"<s>", b"</s>", b"ngram 4=1\n", b"\\4-grams:\n", b"<unk>", b"-99"],
    )


def ngram_folder(folder: Path) -> Prepared:
    import torch
    from helpers.checkpoints import tiny_tokenizer

    from rango.language.ngram_estimation import count_ngrams, smooth
    from rango.models.loading import load_model
    from rango.models.ngram import NGramForCausalLM

    tokenizer = tiny_tokenizer(vocabulary=300)
    stream = np.array([*np.random.default_rng(0).integers(1, 290, 60), 0])
    network = NGramForCausalLM.from_tables(
        smooth(count_ngrams([stream], order=3, vocabulary=len(tokenizer), end=0), smoothing="kneser-ney")
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def read(_: Path) -> Any:
        model = load_model(folder, device="cpu")
        tokens = model.tokenizer("Ann sings", return_tensors="pt", verbose=False).input_ids
        return model.network(torch.as_tensor(tokens)).logits

    files = [file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")]
    return Prepared(
        files, read, b"vocab_size entries smoothing eos_token_id model_type add-k arpa keys_2 I64 F32 F16 shape".split()
    )


def model_config(folder: Path) -> Prepared:
    from helpers.checkpoints import write_checkpoint

    from rango.models.description import describe

    write_checkpoint(folder, "phi")

    def read(_: Path) -> Any:
        return repr(describe(str(folder)))

    return Prepared(
        [folder / "config.json"],
        read,
        b"model_type hidden_size llama gpt2 auto_map num_hidden_layers quantization_config".split(),
    )


def adapters(folder: Path) -> Prepared:
    from helpers.checkpoints import write_checkpoint
    from safetensors.torch import load_file, save_file

    from rango import load_model
    from rango.models.adapter import add_adapter
    from rango.models.peft_format import load_adapter
    from rango.options import LoRA

    write_checkpoint(folder / "base", "phi")
    model = load_model(folder / "base", device="cpu")
    adapter = add_adapter(model, LoRA(rank=2, targets=("q", "v")), seed=0)
    adapter.save(folder / "adapter")
    adapter.remove()
    weights, config = folder / "adapter" / "adapter_model.safetensors", folder / "adapter" / "adapter_config.json"
    # As PEFT writes it: without the digests of Rango, which would refuse every change.
    save_file(load_file(weights), weights, metadata={"format": "pt"})

    def read(_: Path) -> Any:
        read_again = load_adapter(model, folder / "adapter")
        read_again.remove()
        return read_again

    words = (
        b"r lora_alpha target_modules rank_pattern alpha_pattern use_rslora use_dora init_lora_weights pissa LORA bias "
        b"slices F16 BF16 F32 I64 F8_E4M3 data_offsets shape dtype"
    )
    return Prepared([weights, config], read, words.split())


def states(folder: Path) -> Prepared:
    from types import SimpleNamespace

    import torch
    from helpers.training_runs import TwoNumbers

    from rango.training.checkpoint import Progress, load_state, save_state

    adapter: Any = TwoNumbers()
    optimizer = torch.optim.AdamW(adapter.parameters())
    adapter.weight.sum().backward()
    optimizer.step()
    run: Any = SimpleNamespace(key="run", adapter=adapter, optimizer=optimizer, progress=Progress(step=3))
    file = folder / "state.safetensors"
    save_state(file, [run])
    tensors = folder / "bare.safetensors"
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(file, framework="pt") as opened:
        metadata = {key: value for key, value in opened.metadata().items() if "sha256" not in key}
    save_file(load_file(file), tensors, metadata=metadata)

    def read(mutated: Path) -> Any:
        return dict(load_state(mutated).progress)

    return Prepared([tensors, file], read, b"progress run adapter optimizer step F32 I64 shape data_offsets".split())


def run_folder(folder: Path) -> Prepared:
    from helpers.reports_run import make_states, write_run

    from rango.training.run_folder import Run
    from rango.training.systems import read_costs, read_system
    from rango.training.verification import verify

    record = {
        "config": {"model": "m", "task": "simulated", "seed": 0, "form": "cloze", "lora": {"rank": 2}},
        "fingerprints": {"model": "0f6d1c83a92b44e1"}, "model": {"name": "m", "parameters": 9}, "notes": ["a note"],
        "seconds": 2.5, "status": "complete", "costs": {"abstain": 0.3}, "letter_mass": {"base": 0.9}, "best_step": 3,
    }  # fmt: skip
    states = make_states(12)
    write_run(folder, record, {name: states[name] for name in ("base", "adapted", "calibrated")})
    run_yaml, log = folder / "run.yaml", folder / "log.jsonl"
    _unsealed_yaml(run_yaml)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[8:12]))
    _rewrite_unsealed(sorted((folder / "posteriors").glob("*.parquet")))

    def read(_: Path) -> Any:
        run = Run(folder)
        shown = [repr(run), run._repr_html_()] if (folder / "run.yaml").exists() else []
        run.contents(("base", "adapted", "calibrated", "floor"))
        shown.append(repr(verify(folder)))
        read_costs(None, run)
        return shown, run.log, run.metrics, run.config, read_system(run)

    words = (
        b"status complete failed running notes seconds config form costs digests best_step validation step nce value "
        b"low high n direction note"
    )
    files = [run_yaml, log, folder / "metrics.json", folder / "posteriors" / "test-calibrated.parquet"]
    return Prepared(files, read, words.split())


def study_folder(folder: Path) -> Prepared:
    from helpers.studies_made import make_system, make_truth
    from helpers.studies_plan import plan as made_plan

    from rango.files import write_yaml
    from rango.results.outcomes import read_outcomes
    from rango.results.table import table_csv, table_of_study
    from rango.studies.store import HELD_OUT, Store

    plan = made_plan(folder, vary={"lora.rank": [1, 2]}, seeds=[0, 1], base={"train": 20, "validation": 10, "test": 10})
    store = Store(folder)
    store.write_plan(plan)
    files = [folder / "plan.json"]
    for number, job in enumerate(plan.jobs):
        posteriors = make_system(make_truth(12), scale=0.5, noise=0.2, seed=number)
        store.write_posteriors(job, "test", "base" if job.kind == "base" else "adapted", posteriors)
        if job.kind == "base":
            store.write_posteriors(job, "validation", "base", posteriors)
            write_yaml(store.folder(job) / HELD_OUT, {"held_out_nats_per_token": 2.5})
            files.append(store.folder(job) / HELD_OUT)
        else:
            write_yaml(
                store.folder(job) / "run.yaml", {"status": "complete", "seconds": 2.0, "trainable_parameters": 9}
            )
            (store.folder(job) / "log.jsonl").write_text('{"step": 1, "train_loss": 0.5, "validation": {"nce": 0.9}}\n')
            files += [store.folder(job) / "run.yaml", store.folder(job) / "log.jsonl"]
    failed = plan.jobs[-1]
    store.write_failure(failed.id, "the loss is NaN")
    files.append(store.failure_file(failed.id))
    for file in files:
        if file.suffix == ".yaml":
            _unsealed_yaml(file)

    def read(_: Path) -> Any:
        return table_csv(table_of_study(read_outcomes(folder), replicates=5))

    return Prepared(
        files,
        read,
        b"rows jobs axes cells sources state seed kind config group base models references metrics reason".split(),
    )


def endpoint_replies(folder: Path) -> Prepared:
    from rango.serving.endpoint import Endpoint, WrongAnswerError
    from rango.tasks import Instance

    instance = Instance(id="1", context="Ann sings", question="How?", choices=CLASSES, label=0, group="g")
    answer = {"type": "choice", "choice": "happy", "confidence": 0.5, "calibrated": True}
    shares = {"happy": 0.5, "sad": 0.3, "angry": 0.2}
    one = {
        "model": "m",
        "answers": {"answer": {**answer, "probabilities": shares}},
        "usage": {"input_tokens": 3, "cost": 0.1},
    }
    top = [{"token": " A", "logprob": -0.7}, {"token": "B", "logprob": -1.2}, {"token": "x", "logprob": -3.0}]
    two = {"model": "m", "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}], "usage": {"prompt_tokens": 3}}
    # Levels are answered by their numbers, and yes or no by one number.
    levels = {"type": "score", "score": 0.7, "confidence": 0.5, "probabilities": {"0": 0.5, "1": 0.3, "2": 0.2}}
    yes_no = {"type": "noul", "noul": 0.75, "confidence": 0.75}
    instances = {"systemone": instance, "openai": instance, "score": replace(instance, type="score")}
    instances["noul"] = replace(instance, choices=("no", "yes"), type="yes_no")
    contents = {"systemone": one, "openai": two}
    contents |= {name: {**one, "answers": {"answer": each}} for name, each in (("score", levels), ("noul", yes_no))}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))

    def read(file: Path) -> Any:
        endpoint = Endpoint("openai" if file.stem == "openai" else "systemone", "http://127.0.0.1", "m")
        try:
            reply = json.loads(file.read_bytes())
        except (ValueError, RecursionError):  # as `asking` takes it: the response is not JSON
            raise InputError("not JSON") from None
        try:
            return endpoint.read(reply, instances[file.stem])
        except WrongAnswerError as error:
            raise InputError(str(error)) from None

    return Prepared(
        [folder / f"{name}.json" for name in contents],
        read,
        b"answers answer probabilities usage logprob token noul score".split(),
    )


def answer_logs(folder: Path) -> Prepared:
    from rango.serving.asking import read_answers
    from rango.tasks import Instance

    instances = [Instance(id=str(n), context="x", question="", choices=CLASSES, label=0, group="g") for n in range(3)]
    answer = {"scores": [-0.5, -1.5, None], "model": "m", "input_tokens": 3, "mass": 0.9, "calibrated": None}
    lines = [json.dumps({"id": str(n), "seconds": 0.1, "answer": answer}) for n in range(3)]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    return Prepared(
        [folder / "answers.jsonl"],
        lambda file: read_answers(file, instances),
        b"id seconds answer scores model mass".split(),
    )


def unfinished_answers(folder: Path) -> Prepared:
    """What `rango predict` goes on from."""
    from rango.row_stream import Encoder
    from rango.training.prediction import Offered
    from rango.training.prediction_stream import Checked, _read_record, _Stream

    of, encoder = {"input": "x"}, Encoder(folder / "out.csv", ["id"])
    stream = _Stream(folder, of, Checked(3, ("text",), Offered(CLASSES)), encoder, {})
    with stream:
        stream.done = 2
        stream.columns = {"text"}
        stream.commit()
    progress = folder / "progress.json"
    values = json.loads(progress.read_text())
    progress.write_text(json.dumps({key: value for key, value in values.items() if not key.startswith("rango-")}))

    def read(_: Path) -> Any:
        record = _read_record(folder, of)
        assert record is not None
        return _Stream(folder, of, Checked.from_dict(record["checked"]), encoder, record)

    return Prepared(
        [progress], read, b"of checked rows columns files totals names taken expected labelled size sha256".split()
    )


def small_texts(folder: Path) -> Prepared:
    """Word lists, wordings, kept texts, runs of words and probes: one file each."""
    from rango.language.words import read_words
    from rango.tasks.kept_texts import read_kept_texts
    from rango.tasks.perturbations import read_wordings
    from rango.tasks.text_runs import TextRuns

    _write(folder / "words.txt", "the\t120\ncat\t7\nsat 3\nlonely\n")
    _write(folder / "wordings.txt", "{context} So: {question}\nAbout {context}, {question}\n")
    _write(folder / "kept.jsonl", json.dumps({"id": "1", "context": "c", "question": "q"}) + "\n")
    TextRuns.of(["one two three four five six seven eight nine ten eleven"] * 2).write(folder / "runs.gz")
    readers: dict[str, Callable[[Path], Any]] = {
        "words.txt": read_words, "wordings.txt": read_wordings, "kept.jsonl": read_kept_texts, "runs.gz": TextRuns.read,
    }  # fmt: skip
    words = [b"{question}", b"{context}", b"{x}", b"id", b"context", b"\t99999999999999999999", b"{}"]
    return Prepared([folder / name for name in readers], lambda file: readers[file.name](file), words)


def probes(folder: Path) -> Prepared:
    from rango.reports.run.robustness import read_robustness

    estimate = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 20, "direction": "lower"}
    change = {
        "kind": "permute", "flips": estimate, "nce": estimate, "error_rate": estimate, "mass": estimate,
        "variants": ["permute-1"], "calibrated": True,
    }  # fmt: skip
    result = {
        "status": "complete", "split": "test", "n": 20, "form": "letter", "calibrated": True, "notes": ["a note"],
        "changes": {"permute-1": change}, "record": {},
    }  # fmt: skip
    (folder / "probe").mkdir(exist_ok=True)
    (folder / "probe" / "probe.json").write_text(json.dumps(result))
    return Prepared(
        [folder / "probe" / "probe.json"],
        lambda _: read_robustness(folder),
        b"changes flips value low high n notes split".split(),
    )


def gguf(folder: Path) -> Prepared:
    from helpers.checkpoints import write_checkpoint
    from helpers.gguf_files import write_gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rango.models.gguf import configuration, read_parts

    write_checkpoint(folder / "base", "llama", hidden_size=32)
    network = AutoModelForCausalLM.from_pretrained(folder / "base")
    write_gguf(folder / "model.gguf", network, AutoTokenizer.from_pretrained(folder / "base"))

    def read(file: Path) -> Any:
        return configuration(read_parts(file))

    return Prepared(
        [folder / "model.gguf"],
        read,
        [b"general.alignment", b"split.count", b"llama.block_count", b"\x08\x00\x00\x00", b"\x09\x00\x00\x00"],
    )


def http(folder: Path) -> Prepared:
    from helpers.checkpoints import write_checkpoint

    from rango import load_model, load_task
    from rango.decisions import StatedCosts
    from rango.serving.app import Limits, make_app
    from rango.serving.engine import Engine
    from rango.serving.served_run import read_served
    from rango.training.finetune import finetune

    write_checkpoint(folder / "base", "phi")
    (folder / "moods").mkdir()
    table = {"prompt": "{text}. Mood:", "choices": list(CLASSES), "label": "mood"}
    _write(folder / "moods" / "task.yaml", yaml.safe_dump(table))
    rows = [{"text": f"Ann does {n}", "mood": CLASSES[n % 3]} for n in range(40)]
    _write(folder / "moods" / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(folder / "moods", train=16, validation=10, test=10)
    finetune(
        load_model(folder / "base", device="cpu"),
        task,
        out=folder / "run",
        steps=2,
        batch=4,
        costs=StatedCosts(abstain=0.4),
    )
    engine = Engine(load_model(folder / "base", device="cpu"), read_served([f"moods={folder / 'run'}"]))
    app, loop = make_app(engine, limits=Limits(body=200_000, questions=9)), asyncio.new_event_loop()
    loop.run_until_complete(app.router.lifespan_context(app).__aenter__())
    own = {"type": "choice", "criteria": dict.fromkeys(CLASSES)}
    questions = {
        "mood": own,
        "ann": {"type": "noul", "instructions": "Is it about Ann?", "criteria": {"true": "yes", "false": None}},
        "volume": {"type": "score", "instructions": "How loud?", "criteria": ["quiet", "loud", {"very": "loud"}]},
    }
    bodies = {
        "all.json": {"model": "moods", "state": "Ann sings", "questions": questions},
        "nested.json": {
            "model": "moods",
            "state": {"subject": "x", "priority": 2},
            "questions": {"q": own},
            "assets": None,
        },
    }
    for name, body in bodies.items():
        (folder / name).write_text(json.dumps(body))

    async def post(body: bytes) -> tuple[int, Any]:
        status, sent = 0, bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            sent.extend(message.get("body", b""))

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/systemone", "headers": headers, "query_string": b"",
                 "http_version": "1.1", "scheme": "http", "root_path": "", "server": ("127.0.0.1", 80)}  # fmt: skip
        await app(scope, receive, send)
        return status, json.loads(sent)

    def read(file: Path) -> Any:
        status, reply = loop.run_until_complete(post(file.read_bytes()))
        if status == 200:
            shares = [answer.get("probabilities") for answer in reply["answers"].values()]
            assert not any(np.isnan(list(each.values())).any() for each in shares if isinstance(each, dict))
            return reply
        detail = reply["detail"]
        if not 400 <= status < 500:
            raise AssertionError(f"status {status}: {str(detail)[:300]}")
        raise InputError(detail if isinstance(detail, str) else detail[0]["msg"])

    words = b"model state questions type choice noul score box criteria instructions true false assets moods happy"
    return Prepared([folder / name for name in bodies], read, words.split())


READERS: dict[str, Callable[[Path], Prepared]] = {
    "posteriors-csv": posteriors_files(["csv"]),
    "posteriors-jsonl": posteriors_files(["jsonl"]),
    "posteriors-parquet": posteriors_files(["parquet"]),
    "posteriors-npz": posteriors_files(["npz"]),
    "table-csv": table_task(["csv"]),
    "table-tsv": table_task(["tsv"]),
    "table-jsonl": table_task(["jsonl"]),
    "table-parquet": table_task(["parquet"]),
    "task-yaml": task_yaml,
    "rows": row_streams,
    "decision-log": decision_log,
    "long-log": long_log,
    "piped-rows": piped_rows,
    "costs": costs,
    "study": study_file,
    "config": config_file,
    "calibrator": calibrators,
    "gate": gates,
    "baseline": baselines,
    "arpa": arpa,
    "ngram-folder": ngram_folder,
    "model-config": model_config,
    "adapter": adapters,
    "state": states,
    "run-folder": run_folder,
    "study-folder": study_folder,
    "endpoint": endpoint_replies,
    "answers": answer_logs,
    "unfinished": unfinished_answers,
    "texts": small_texts,
    "probe": probes,
    "gguf": gguf,
    "http": http,
}
