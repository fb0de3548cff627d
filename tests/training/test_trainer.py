"""One step of the loop: gradients of micro-batches, of banks and of an adapter in the head; divergence; the bar."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toy import toy_task
from rich.console import Console

from rango.console import Screen
from rango.errors import DivergenceError, InputError, RunError
from rango.models.adapter import add_bank
from rango.models.full_finetuning import add_full
from rango.models.loading import Model, load_model
from rango.models.peft_format import load_adapter
from rango.options import FinetuneConfig
from rango.scoring.probe import probe_reader
from rango.scoring.trees import TokenTree, encode
from rango.training import trainer
from rango.training.finetune import finetune
from rango.training.objectives import count_terms
from rango.training.run_folder import Run
from rango.training.run_writer import RunWriter
from rango.training.trainer import accumulate_gradients, is_out_of_memory
from rango.training.training_run import BankData, TrainingRun

Checkpoint = Callable[..., Path]
TASK = toy_task()
QUICK: dict[str, Any] = {"steps": 12, "batch": 8, "learning_rate": 1e-2, "validate_every": 4, "lora": {"rank": 4}}


def make_runs(model: Model, folder: Path, settings: Sequence[dict[str, Any]]) -> list[TrainingRun]:
    """Runs whose adapters have moved already: with B = 0 most gradients would be 0."""
    configs = [FinetuneConfig.build({"model": "phi", "task": "toy", **one}) for one in settings]
    reader = probe_reader(model)  # before the bank, as fine-tuning does: a probe has not a row for each adapter
    adapters = add_bank(model, [(config.lora, config.seed) for config in configs])
    trees = encode(model, TASK.train, task=TASK, form="cloze")
    data = BankData(reader, "cloze", trees, trees[:4], TASK.train[:4])
    runs = []
    for number, (config, adapter) in enumerate(zip(configs, adapters, strict=True)):
        generator = torch.Generator().manual_seed(number)
        for parameter in adapter.parameters():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        runs.append(TrainingRun(str(number), config, adapter, RunWriter(folder, {}), data))
    return runs


def gradients(run: TrainingRun) -> list[torch.Tensor]:
    taken = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in run.adapter.parameters()]
    run.optimizer.zero_grad(set_to_none=True)
    return taken


def batch_of(run: TrainingRun, count: int) -> list[TokenTree]:
    return list(run.data.train[:count])


@pytest.mark.parametrize("objective", ["tokens", "answer", "choice"])
def test_micro_batches_have_the_loss_and_gradient_of_the_whole_batch(
    checkpoint: Checkpoint, tmp_path: Path, objective: str
) -> None:
    model = load_model(checkpoint("phi"))
    lora = {"rank": 2, "targets": "q,mlp,head"}
    (whole,) = make_runs(model, tmp_path, [{"objective": objective, "lora": lora}])
    trees = batch_of(whole, 7)
    (loss,) = accumulate_gradients(whole.data.reader, [whole], [trees])
    expected = gradients(whole)
    assert any(bool(gradient.any()) for gradient in expected)
    for size in (1, 3, 7, 20):
        whole.pass_size = size
        (again,) = accumulate_gradients(whole.data.reader, [whole], [trees])
        assert again == pytest.approx(loss, rel=1e-5)
        for gradient, reference in zip(gradients(whole), expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["phi", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("kind", ["plain", "dropout", "bank", "quantised", "full"])
def test_gradients_are_the_same_where_layers_are_computed_again(
    checkpoint: Checkpoint, tmp_path: Path, architecture: str, kind: str
) -> None:
    if kind == "quantised":
        pytest.importorskip("bitsandbytes", reason="the extra quantise is not installed")
    model = load_model(checkpoint(architecture), device="cpu", quantise="nf4" if kind == "quantised" else "none")
    # OPT's MLP sees no batch: the rows of a bank cannot be told apart in it.
    targets = "q" if (kind, architecture) == ("bank", "opt") else "q,mlp"
    lora = {"rank": 2, "targets": targets, "dropout": 0.3 if kind == "dropout" else 0.0}
    count = 3 if kind == "bank" else 1
    runs = make_runs(model, tmp_path, [{"lora": {**lora, "rank": 2 + n}, "seed": n} for n in range(count)])
    if kind == "full":
        runs[0].adapter.remove()
        runs[0].adapter = add_full(model)
        runs[0]._begin_phase()  # an optimizer of all parameters
    batches = [batch_of(run, 5 + n) for n, run in enumerate(runs)]
    losses, taken, kept = [], [], []
    for again in (False, True):
        for run in runs:
            run.config = run.config.model_copy(update={"gradient_checkpointing": again})
        torch.manual_seed(0)
        kept.append(0)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses.append(accumulate_gradients(runs[0].data.reader, runs, batches))
        taken.append([gradient for run in runs for gradient in gradients(run)])
    assert losses[0] == losses[1]
    assert all(torch.equal(one, other) for one, other in zip(*taken, strict=True))
    assert any(bool(gradient.any()) for gradient in taken[0])
    assert kept[1] < 0.7 * kept[0]
    assert not any("forward" in vars(module) for module in model.network.modules())


def test_a_network_without_layers_to_compute_again_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("rango_lstm"), device="cpu")
    with pytest.raises(InputError, match=r"gradient_checkpointing is on, but .* \(rango_lstm\) has no layers that"):
        finetune(model, TASK, out=tmp_path / "run", gradient_checkpointing=True, lora={"targets": "head"})
    assert not (tmp_path / "run").exists()


def test_the_loss_is_the_mean_over_the_terms_of_the_batch(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_model(checkpoint("phi"))
    (run,) = make_runs(model, tmp_path, [{"objective": "tokens"}])
    trees = batch_of(run, 5)
    (loss,) = accumulate_gradients(run.data.reader, [run], [trees])
    micro_batch = run.micro_batch(trees)
    with run.adapter.alone(), torch.no_grad():
        total = float(micro_batch.loss(run.data.reader.states(micro_batch.batch)))
    assert loss == pytest.approx(total / count_terms(trees, "tokens"), rel=1e-6)


def test_runs_of_a_bank_have_the_gradients_they_have_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Batches of unequal size, so that the first run has micro-batches left when the second has none."""
    model = load_model(checkpoint("phi"))
    settings: list[dict[str, Any]] = [
        {"lora": {"rank": 2, "targets": "q,v"}, "objective": "choice", "micro_batch": 2},
        {"lora": {"rank": 3, "targets": "mlp,head"}, "objective": "tokens", "micro_batch": 2},
        {"lora": {"rank": 1, "targets": "head"}, "objective": "answer", "micro_batch": 2},
    ]
    runs = make_runs(model, tmp_path, settings)
    batches = [batch_of(run, count) for run, count in zip(runs, (7, 3, 4), strict=True)]
    together = accumulate_gradients(runs[0].data.reader, runs, batches)
    shared = [gradients(run) for run in runs]
    for run, batch, loss, expected in zip(runs, batches, together, shared, strict=True):
        (alone,) = accumulate_gradients(run.data.reader, [run], [batch])
        assert alone == pytest.approx(loss, rel=1e-5)
        for gradient, reference in zip(gradients(run), expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_nothing_below_the_head_is_differentiated_where_only_the_head_is_trained(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = load_model(checkpoint("phi"))
    (run,) = make_runs(model, tmp_path, [{"lora": {"rank": 2, "targets": "head"}}])
    (loss,) = accumulate_gradients(run.data.reader, [run], [batch_of(run, 4)])
    assert math.isfinite(loss)
    assert all(bool(gradient.any()) for gradient in gradients(run))
    assert all(parameter.grad is None for parameter in model.network.parameters() if not parameter.requires_grad)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_best(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reader: Any, runs: Any, *arguments: Any) -> list[float]:
        losses = accumulate_gradients(reader, runs, *arguments)
        return [math.nan] if runs[0].progress.step == 6 else losses

    monkeypatch.setattr("rango.training.trainer.accumulate_gradients", broken)
    with pytest.raises(
        DivergenceError,
        match=r"became nan at step 7 with learning rate 0\.01 and lora\.alpha 16; the best checkpoint \(step 4\)",
    ):
        finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK)
    model = load_model(checkpoint("phi"))
    assert load_adapter(model, tmp_path / "run").parameter_count() > 0


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_shows_steps_loss_validation_and_time_left(checkpoint: Checkpoint, tmp_path: Path, width: int) -> None:
    screen, shown = Screen(), io.StringIO()
    screen.console = Console(file=shown, width=width, force_terminal=True, color_system=None, highlight=False)
    run = finetune(load_model(checkpoint("phi")), toy_task(), out=tmp_path / "run", **QUICK, screen=screen)
    bars = [line for line in re.split(r"[\r\n]", shown.getvalue()) if "training" in line]
    last = bars[-1]
    assert all(len(re.sub(r"\x1b\[\S*?[A-Za-z]", "", line)) <= width for line in bars)
    nce = run.log[-1]["validation"]["nce"]
    assert re.search(rf"training .*12/12 loss \d\.\d{{3}} · val NCE {nce:.3f} · [\d,]+ tokens/s +00:0", last), last
    assert " 0/12 " in bars[0]


def test_a_quiet_run_shows_no_bar(checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(checkpoint("phi"))
    capsys.readouterr()
    finetune(model, toy_task(), out=tmp_path / "run", **QUICK, screen=Screen(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_a_log_has_a_line_for_each_validation(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = itertools.count()
    model = load_model(checkpoint("phi"))
    capsys.readouterr()
    run = finetune(model, toy_task(), out=tmp_path / "run", **QUICK, screen=Screen(clock=lambda: next(ticks) * 0.5))
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("training: ")]
    validated = [record["step"] for record in run.log if "validation" in record]
    assert [int(line.split()[1]) for line in lines] == validated
    assert re.fullmatch(r"training: 0 of 12 steps, val NCE \d\.\d{3}", lines[0])
    shown = r"training: \d+ of 12 steps, loss \d\.\d{3} · val NCE \d\.\d{3} · [\d,]+ tokens/s, 0\.\d+ s a step"
    assert all(re.fullmatch(shown + r"(, \d s left)?", line) for line in lines[1:]), lines
    assert not set(errors) & {"\x1b", "\r"}


def test_a_pass_that_does_not_fit_is_halved_for_the_same_steps(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that holds three instances: 8 → 4 → 2 in the first step, and no new attempt afterwards."""
    model = load_model(checkpoint("phi"))
    settings = {**QUICK, "steps": 4, "lora": {"rank": 4, "targets": "q,mlp", "dropout": 0.1}}
    finetune(model, TASK, out=tmp_path / "small", **settings, micro_batch=2)
    join, sizes = trainer.join, []

    def limited(batches: Sequence[Any], **options: Any) -> Any:
        sizes.append(sum(batch.shape[0] for batch in batches))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return join(batches, **options)

    monkeypatch.setattr(trainer, "join", limited)
    screen, stream = Screen(), io.StringIO()
    screen.console = Console(file=stream, width=200)
    halved = finetune(model, TASK, out=tmp_path / "halved", screen=screen, **settings)
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[2:]) == {2}
    assert "a pass holds 2 instances from here on, for the same steps (--micro-batch 2 begins so)" in stream.getvalue()
    notes = [note for note in halved.record["notes"] if "out of memory" in note]
    assert [re.findall(r"with (\d).*holds (\d)", note) for note in notes] == [[("8", "4")], [("4", "2")]]
    small = Run(tmp_path / "small")
    assert [r.get("train_loss") for r in halved.log] == [r.get("train_loss") for r in small.log]
    assert halved.posteriors("adapted").log_posteriors.tolist() == small.posteriors("adapted").log_posteriors.tolist()


def test_one_instance_that_does_not_fit_ends_the_run_in_words(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "join", full)
    with pytest.raises(RunError, match="out of memory with one instance in a pass; gradient_checkpointing, quantise"):
        finetune(load_model(checkpoint("phi")), TASK, out=tmp_path / "run", **QUICK)


def test_what_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
