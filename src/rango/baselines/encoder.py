"""A fine-tuned encoder: a sequence classifier of transformers, such as BERT, all of whose weights are trained.

Where all instances have the same choices it reads the text once and has a logit for each class; where choices are texts
of their own it reads context and choice as a pair, and has one logit for each pair:

    [CLS] context [SEP]             ──▶ K logits                     posterior = softmax of the logits
    [CLS] context [SEP] choice [SEP] ──▶ one logit for each choice

An encoder is another kind of reader of the same token trees. So training, checkpoints, log, patience and exact resume
are those of every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from rango.baselines.regression import Fitted, check_fittable
from rango.console import Screen, SignalGuard
from rango.errors import DivergenceError, InputError
from rango.models.full_finetuning import FullTuning, add_full
from rango.models.loading import (
    Model,
    choose_device,
    limit_threads,
    load_tokenizer,
    quiet_transformers,
)
from rango.models.sources import check_source
from rango.options import SPLITS, FinetuneConfig, Split
from rango.scoring.batches import Batch, Read
from rango.scoring.forward import Reader
from rango.scoring.scorer import as_posteriors, score
from rango.scoring.trees import TokenTree
from rango.tasks import Instance, Task
from rango.tasks.task import named
from rango.training.bank import run_key
from rango.training.run_writer import RunWriter
from rango.training.trainer import Trainer
from rango.training.training_run import BankData, TrainingRun


def fit_encoder(task: Task, config: FinetuneConfig, writer: RunWriter, screen: Screen) -> Fitted:
    """Fine-tune an encoder and score its best checkpoint on validation.

    Repeating goes on from the last saved state, with the same result. The encoder's own dropout is on, as is usual.

    Args:
        task: its contexts, questions and choices are read as they are, without a prompt.
        config: `model` is the encoder; the options of training are those of full fine-tuning with the objective
            `choice` in the regime `validation`.
        writer: of the folder for log, checkpoints and state.
        screen: where progress is shown.

    Raises:
        InputError: no such encoder; no instances to train or to validate on; an instance longer than the encoder reads.
        DivergenceError: the loss became infinite.
        Interrupted: a signal; everything is saved.
    """
    check_fittable(task)
    model = load_encoder(config.model, labels=len(task.classes or "1"), device=config.device, seed=config.seed)
    reader = EncoderReader(model)
    trees = {split: reader.encode(task.split(split), classes=task.classes) for split in SPLITS}
    data = BankData(reader, "cloze", trees["train"], trees["validation"], task.validation)
    full = add_full(model)
    run = TrainingRun(run_key(config), config, EncoderTuning(model, full.base), writer, data)
    with SignalGuard(f"the encoder in {writer.path} is saved; repeat the command to go on") as guard:
        Trainer(reader, [run], writer.path / "state" / "state.safetensors", screen).train(guard)
    if run.progress.failed is not None:
        raise DivergenceError(run.progress.failed)
    run.conclude()
    splits: tuple[Split, ...] = ("validation", "test")
    scores = {split: score(reader, trees[split], options=config, form="cloze").values for split in splits}
    return Fitted(
        posteriors={split: as_posteriors(scores[split], task.split(split)) for split in splits},
        trainable_parameters=run.adapter.parameter_count(),
        facts={"best_step": run.progress.best_step, "steps": run.progress.step},
        notes=model.notes,
    )


def load_encoder(name: str, *, labels: int, device: str, seed: int) -> Model:
    """Load a network with a head for `labels` logits, in float32, with its tokenizer. Code from the Hub is never run.

    A head that the checkpoint lacks, or has for other labels, is drawn with `seed`.

    Raises:
        InputError: no such model, no classifier of sequences, a checkpoint that lacks weights below the head, a
            tokenizer that cannot pad.
    """
    check_source(name)
    tokenizer = load_tokenizer(name)
    if tokenizer.pad_token_id is None:
        raise InputError(f"encoder {name}: its tokenizer has no token for padding; give an encoder, such as BERT")
    network = _load_network(name, labels, choose_device(device), seed)
    limit_threads(network)
    return Model(name=name, network=network, tokenizer=tokenizer)


def _load_network(source: str, labels: int, device: torch.device, seed: int) -> PreTrainedModel:
    try:
        # The head is drawn from the global stream, which is left as it was.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, num_labels=labels)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(
            f"encoder {source!r} cannot be loaded ({lines[0].strip()[:300]}); give a Hub id or a folder of an encoder, "
            "such as BERT"
        ) from None
    network, info = loaded
    # A pooler is a part of the head that some pre-trainings have no use for.
    body = f"{network.base_model_prefix}."
    missing = sorted(key for key in info["missing_keys"] if key.startswith(body) and ".pooler." not in key)
    if missing:
        raise InputError(
            f"encoder {source}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...); they would be random"
        )
    network.to(device)
    assert isinstance(network, PreTrainedModel)
    return network


class EncoderTuning(FullTuning):
    """Full fine-tuning of an encoder, with the dropout of its configuration."""

    def enable_dropout(self) -> None:
        """Switch the network's own dropout on; scoring switches it off again."""
        self.model.network.train(True)

    def load(self, folder: Path) -> None:
        """Copy the weights from a checkpoint of this same encoder.

        Raises:
            InputError: it is damaged, or lacks weights.
        """
        labels = int(self.model.network.config.num_labels or 1)
        network = _load_network(str(folder), labels, torch.device("cpu"), seed=0)
        self.load_state({name: parameter.detach() for name, parameter in network.named_parameters()})


@dataclass(frozen=True, eq=False)
class EncoderReader(Reader):
    """How a sequence classifier reads instances: a row of tokens for each, or for each of its choices.

    A tree of classes has the row as its trunk and the class's number as branch k. A tree of pairs has no trunk, and the
    rows as its branches.
    """

    reads_trees: bool = False
    window: int | None = None
    splits_head: bool = False
    kinds: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    """Row -> to which of the two texts each token belongs, by the tokenizer; empty where the network takes no kinds."""

    def encode(self, instances: Sequence[Instance], *, classes: Sequence[str] | None) -> list[TokenTree]:
        """Put instances into tokens: context and question, and where there are no classes each choice behind them.

        Raises:
            InputError: an instance that is longer than the encoder reads.
        """
        trees = []
        for instance in instances:
            text = f"{instance.context} {instance.question}".strip()
            texts = [text] if classes is not None else [text] * len(instance.choices)
            with quiet_transformers():  # it warns of a text that is too long, which is refused below
                encoded = self.model.tokenizer(texts, None if classes is not None else list(instance.choices))
            rows = [tuple(row) for row in encoded["input_ids"]]
            self.kinds.update(zip(rows, encoded.get("token_type_ids") or (), strict=False))
            longest, limit = max(map(len, rows)), self._limit()
            if longest > limit:
                raise InputError(
                    f"{named(instance)} is {longest} tokens long, {self.model.name} reads at most {limit}; shorten the "
                    "instance or choose an encoder with a longer context"
                )
            trunk: tuple[int, ...] = () if classes is None else rows[0]
            branches = tuple(rows) if classes is None else tuple((k,) for k in range(len(classes)))
            trees.append(TokenTree(instance.id, trunk, branches, (1,) * len(branches), instance.label, instance.target))
        return trees

    def _limit(self) -> int:
        # RoBERTa's positions begin behind its padding, which only its tokenizer knows.
        return min(self.model.context_length or 10**9, self.model.tokenizer.model_max_length)

    def as_tree(self, tree: TokenTree) -> bool:
        """Whether one row holds all choices: those of classes."""
        return bool(tree.trunk)

    def collate(self, trees: Sequence[TokenTree], *, read: Read, as_trees: bool) -> Batch:
        """The rows of instances, with a mask of what is no padding; every row has one place, where its logits are."""
        assert read == "choices"
        width = max(len(tree.branches) for tree in trees)
        rows = [tree.trunk for tree in trees] if as_trees else [row for tree in trees for row in tree.branches]
        owners = [number * width + k for number, tree in enumerate(trees) for k in range(len(tree.branches))]
        targets = [k if as_trees else 0 for tree in trees for k in range(len(tree.branches))]
        at = [number for number, tree in enumerate(trees) for _ in tree.branches] if as_trees else range(len(rows))
        counts = [len(tree.branches) for tree in trees] if as_trees else [1] * len(rows)
        lengths = torch.tensor([len(row) for row in rows])  # (b,)
        tokens = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=self.pad())  # (b, t)
        batch = Batch(
            tokens=tokens,
            positions=None,
            visible=(torch.arange(tokens.shape[1]) < lengths[:, None])[:, None, None],  # (b, 1, 1, t)
            rows=torch.arange(len(rows)),
            columns=torch.zeros(len(rows), dtype=torch.long),
            at=torch.tensor(list(at)),
            targets=torch.tensor(targets),
            owners=torch.tensor(owners),
            offsets=(0, *accumulate(counts)),
            shape=(len(trees), width),
            token_count=int(lengths.sum()),
        )
        return batch.to(self.model.device)

    def states(self, batch: Batch) -> torch.Tensor:
        """The logits of each row, (b, K) or (b, 1), float32."""
        assert batch.visible is not None
        network: Any = self.model.network
        mask = batch.visible[:, 0, 0]  # (b, t)
        inputs = {"input_ids": batch.tokens, "attention_mask": mask.long()}
        if self.kinds:
            rows = [tuple(row[seen].tolist()) for row, seen in zip(batch.tokens, mask, strict=True)]
            kinds = pad_sequence([torch.tensor(self.kinds[row]) for row in rows], batch_first=True)  # (b, t)
            inputs["token_type_ids"] = kinds.to(batch.tokens.device)
        logits: torch.Tensor = network(**inputs).logits.float()
        return logits

    def log_probabilities(self, batch: Batch, states: torch.Tensor | None = None) -> torch.Tensor:
        """The logit of each choice, (m,) float32: up to a constant of its instance the log-posterior."""
        states = self.states(batch) if states is None else states
        return states[batch.at, batch.targets]

    choice_logits = log_probabilities
