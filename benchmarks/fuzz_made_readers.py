"""Readers of what a program made: models, adapters, states, folders of runs and studies, replies and requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fuzz_prepared import CLASSES, Prepared, rewrite_unsealed, unsealed_yaml, write_packed

from rango.errors import InputError


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
        write_packed(folder / name, text)

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
    unsealed_yaml(run_yaml)
    log.write_text("".join(log.read_text().splitlines(keepends=True)[8:12]))
    rewrite_unsealed(sorted((folder / "posteriors").glob("*.parquet")))

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
            unsealed_yaml(file)

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

    write_packed(folder / "words.txt", "the\t120\ncat\t7\nsat 3\nlonely\n")
    write_packed(folder / "wordings.txt", "{context} So: {question}\nAbout {context}, {question}\n")
    write_packed(folder / "kept.jsonl", json.dumps({"id": "1", "context": "c", "question": "q"}) + "\n")
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
    write_packed(folder / "moods" / "task.yaml", yaml.safe_dump(table))
    rows = [{"text": f"Ann does {n}", "mood": CLASSES[n % 3]} for n in range(40)]
    write_packed(folder / "moods" / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
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
