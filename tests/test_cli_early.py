"""Bad input is refused before the seconds that torch and transformers take to load, by every command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "datasets", "scipy", "sklearn", "matplotlib", "pandas", "pyarrow")
REFUSED = {
    "finetune ./NOWHERE simulated --out OUT": "model folder ./NOWHERE does not exist",
    "finetune EMPTY simulated --out OUT": "has no config.json",
    "finetune m socialiqa --data NOWHERE --out OUT": "data folder NOWHERE does not exist",
    "finetune m hellaswag --data EMPTY --out OUT": "EMPTY holds no",
    "finetune m socialqa --out OUT": "did you mean 'socialiqa'?",
    "finetune m ./NOWHERE --out OUT": "table ./NOWHERE does not exist",
    "finetune m simulated --out FILE/run": "cannot be written to",
    "finetune m simulated --out FULL": "already holds other files",
    "finetune m simulated --out OUT --device tpu": "device 'tpu' is not known",
    "finetune m simulated --out OUT --lora.rank 0": "lora.rank is '0'",
    "finetune m simulated --out OUT --lora.rnk 1": "--lora.rank",
    "finetune --config NOWHERE": "NOWHERE does not exist",
    "finetune m simulated --out OUT --lora.layers 0-x": "'0-x' is not a layer or a range",
    "finetune m simulated --out OUT --train 5 --shots 6": "shots is 6 but the training split has 5",
    "evaluate m simulated --out OUT --train 5 --shots 6": "shots is 6 but the training split has 5",
    "evaluate m simulated --out FULL": "already holds other files",
    "evaluate m simulated --out OUT --adapter EMPTY": "EMPTY holds no adapter_config.json",
    "evaluate m simulated --out OUT --adapter NOWHERE": "NOWHERE holds no adapter_config.json",
    "evaluate m socialiqa --data NOWHERE --out OUT": "data folder NOWHERE does not exist",
    "pretrain NOWHERE --out OUT": "NOWHERE does not exist",
    "pretrain FILE --out OUT": "FILE: ending '' is not known; expected .txt",
    "pretrain FILE --out FILE/model": "cannot be written to",
    "pretrain EMPTY.txt --out OUT": "EMPTY.txt is empty",
    "pretrain P.jsonl --out OUT": "P.jsonl:1: `text` is None",
    "pretrain TEXT.txt --out FULL": "already holds something else (notes.txt)",
    "pretrain TEXT.txt --out .": "is the current folder",
    "pretrain FILE --out OUT --tokenizer NOWHERE": "tokenizer NOWHERE is not a folder",
    "pretrain FILE --out OUT --architecture NOWHERE.json": "NOWHERE.json does not exist",
    "generate ./NOWHERE Ann": "model folder ./NOWHERE does not exist",
    "generate m Ann --adapter EMPTY": "EMPTY holds no adapter_config.json",
    "score-text m NOWHERE": "NOWHERE does not exist",
    "score-text ./NOWHERE FILE": "model folder ./NOWHERE does not exist",
    "score-text m FILE --threshold x": "--threshold is 'x'",
    "score-text m FILE --out FULL": "is a folder; give the path of a file",
    "spell m Ann --words NOWHERE": "NOWHERE does not exist",
    "spell m --file NOWHERE": "NOWHERE does not exist",
    "spell m Ann --words EMPTY.txt": "EMPTY.txt is empty",
    "spell m Ann --words TEXT.txt": "TEXT.txt:1: 'Ann sings.'; expected a word",
    "spell m": "give the text to check, or --file FILE",
    "metrics NOWHERE": "NOWHERE",
    "metrics P.jsonl --costs NOWHERE": "NOWHERE does not exist",
    "metrics FILE --out FULL": "is a folder; give the path of a file",
    "calibrate --fit NOWHERE --apply NOWHERE --method temperature --out OUT": "NOWHERE",
    "calibrate --fit FILE --apply FILE --method temperature --out FULL": "is a folder; give the path of a file",
    "decide FILE --costs NOWHERE --out OUT.csv": "NOWHERE does not exist",
    "decide FILE --costs NOWHERE --out OUT.txt": "expected .csv, .jsonl, .parquet",
    "compare NOWHERE NOWHERE": "NOWHERE",
    "study NOWHERE": "NOWHERE does not exist",
    "study STUDY --out OUT": "data folder NOWHERE does not exist",
    "study STUDY --out OUT --set base.trian=3": "trian",
    "tasks NOWHERE": "unknown task 'NOWHERE'",
    "tasks socialiqa --data NOWHERE": "data folder NOWHERE does not exist",
    "export NOWHERE --out OUT": "NOWHERE is not a folder",
    "export FULL --out OUT": "FULL holds neither run.yaml nor metrics.json",
    "export FULL --out OUT --state base": "state is 'base'",
    "export FULL --out OUT --public": "public is given but nothing is pushed",
    "report NOWHERE": "NOWHERE",
    "report FULL": "FULL holds neither run.yaml nor metrics.json",
    "demo --out FILE/demo": "cannot be written to",
    "demo --out FULL": "already holds other files",
}
# Options that matter only with another one, or for another kind of input, are never passed over in silence.
ALONE = {
    "finetune m TYPED --out OUT --rule ranked": "rule is ranked, which is for ordered levels, but TYPED",
    "finetune m TYPED --out OUT --select mean_absolute_error": "select is mean_absolute_error, which is for ordered",
    "finetune m TYPED --out OUT --objective answer --rule brier": "objective is answer, which would ignore it",
    "finetune m TYPED --out OUT --objective answer --label-smoothing 0.1": "label_smoothing is 0.1 and objective",
    "finetune m TYPED --out OUT --data EMPTY": "leave the option out",
    "finetune m simulated --out OUT --data EMPTY": "is generated; leave the option out",
    "finetune m simulated --out OUT --prompt lm-eval": "lm-evaluation-harness has no task simulated",
    "finetune m simulated --out OUT --epochs 2 --steps 3": "give one of them",
    "finetune m simulated --out OUT --offload --device cpu": "leave --offload out",
    "finetune m simulated --out OUT --shard": "start it with torchrun",
    "evaluate m simulated --out OUT --concurrency 2": "MODEL is no endpoint; leave it out",
    "evaluate m simulated --out OUT --mc-dropout 2": "there is no adapter whose dropout could be on",
    "evaluate m simulated --out OUT --other-data": "there is no adapter whose run could have seen data",
    "evaluate m simulated --out OUT --form cloze --orders 2": "lists no options whose order could matter",
    "evaluate systemone:http://x#m simulated --out OUT --device cpu": "device is cpu but systemone:http://x#m is an",
    "evaluate systemone:http://x#m simulated --out OUT --batch-tokens 9": "batch_tokens is 9 but systemone:",
    "evaluate systemone:http://x#m simulated --out OUT --form letter": "form is the endpoint's own choice",
    "evaluate systemone:http://x#m simulated --out OUT --offload": "is an endpoint; leave it out",
    "probe m simulated --out OUT --changes remove --orders 3": "permute is not among the changes",
    "probe m simulated --out OUT --changes remove --questions WORDS.txt": "reword is not among the changes",
    "probe m simulated --out OUT --concurrency 2": "MODEL is no endpoint; leave it out",
    "probe m simulated --out OUT --language es": "--language is of a run's page",
    "probe m simulated --out OUT --other-data": "there is no adapter whose run could have seen data",
    "calibrate --fit P.jsonl --apply P.jsonl --out OUT.csv --precision 0.2": "--precision is about the labels of",
    "calibrate --apply P.jsonl --out OUT.csv --method affine --calibrator FILE": "--method affine without --fit",
    "calibrate --apply P.jsonl --out OUT.csv --calibrator FILE --towards identity": "--towards without --fit",
    "decide P.jsonl --costs abstain=0.3 --out OUT.csv --training-priors 0.5,0.5": "--training-priors without --priors",
    "compare P.jsonl P.jsonl --language es": "--language is of the page",
    "compare P.jsonl P.jsonl --page OUT.html --priors 0.5,0.5": "leave --priors out, or --page",
    "compare BARE.jsonl BARE.jsonl --costs abstain=0.3": "--costs is for what labels measure, and there are none",
    "compare BARE.jsonl BARE.jsonl --priors 0.5,0.5": "--priors is for what labels measure, and there are none",
    "gate P.jsonl --max-error 0.1 --pass-on ask": "pass_on is 'ask' without costs",
    "gate P.jsonl --max-error 0.1 --costs abstain=0.3": "a gate has one aim",
    "monitor P.jsonl --margin 0.1": "--margin without --save-baseline",
    "plan P.jsonl --costs abstain=0.3": "--costs is for the metric expected_cost, and this is nce",
    "serve RUN --log-state": "--log-state is given without --log",
    "finetune m simulated --out OUT --regime all --patience 3": "patience is 3 but regime all validates nothing",
    "study STUDY --workers 2 --ray local": "--workers is 2 processes on this machine, and --ray runs elsewhere",
    "study STUDY --gpus 1": "--gpus is for tasks on a Ray cluster",
    "tasks --show 2": "--show is about a task, and none is named",
    "tasks --train 5": "--train is about a task, and none is named",
    "models --length 64": "--length is of the estimate of memory",
    "models EMPTY --lora.targets all-linear": "--lora.targets is of the estimate of memory",
    "pretrain TEXT.txt --out OUT --model ngram --hidden 64": "hidden (64) does not apply to model ngram",
    "pretrain TEXT.txt --out OUT --lstm.dropout 0.5": "does not apply to model transformer",
    "pretrain TEXT.txt --out OUT --model ngram --ngram.k 2": "k is of add-k, leave it out",
    "spell m Ann --file FILE": "not both",
}
REFUSED |= ALONE
# One interpreter runs all commands: a heavy library stays once it is loaded, and the first that loads it is seen.
PROGRAM = f"""
import contextlib, io, json, sys
from rango.cli import main
seen, heavy = [], set({HEAVY})
for command in json.load(sys.stdin):
    loaded = set(sys.modules)
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = main(command.split())
    seen.append([code, errors.getvalue(), sorted(heavy & set(sys.modules) - loaded)])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """Exit code, error and heavy libraries that it loaded, for each command."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "EMPTY").mkdir()
    (folder / "FULL").mkdir()
    (folder / "FULL" / "notes.txt").write_text("mine")
    (folder / "FILE").write_text("Ann sings.\n")
    (folder / "TEXT.txt").write_text("Ann sings.\n")
    (folder / "EMPTY.txt").touch()
    (folder / "P.jsonl").write_text('{"label": 0, "posteriors": [0.6, 0.4]}\n' * 4)
    (folder / "BARE.jsonl").write_text('{"posteriors": [0.6, 0.4]}\n' * 4)
    (folder / "WORDS.txt").write_text("So: {question}\n")
    (folder / "TYPED").mkdir()
    keys = "{prompt: '{state} {question}', choices: options, label: answer, type: kind, group: state}"
    (folder / "TYPED" / "task.yaml").write_text(keys)
    kinds = {"score": ["calm", "cross", "angry"], "yes_no": ["no", "yes"]}
    rows = [
        {"state": f"Ticket {n}.", "question": f"Is it {kind}?", "options": words, "kind": kind, "answer": words[n % 2]}
        for n in range(20)
        for kind, words in kinds.items()
    ]
    (folder / "TYPED" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "STUDY").write_text("base: {model: m, task: socialiqa, data: NOWHERE}\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder, input=json.dumps(list(REFUSED)), capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert not (folder / "OUT").exists()
    return dict(zip(REFUSED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", REFUSED)
def test_bad_input_is_refused_before_heavy_libraries(
    command: str, refusals: dict[str, tuple[int, str, list[str]]]
) -> None:
    code, error, loaded = refusals[command]
    assert REFUSED[command] in error
    # The study has two mistakes then, each on its line, and a third line that counts them.
    lines = 3 if "trian" in command else 1
    assert (code, error.count("\n"), loaded) == (2, lines, [])


def test_help_loads_only_what_prints_it() -> None:
    program = "import sys; from rango.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "Judge" in done.stdout
    assert set(done.stderr.split()) & {*HEAVY, "numpy", "pydantic", "yaml", "markdown_it", "pygments"} == set()
