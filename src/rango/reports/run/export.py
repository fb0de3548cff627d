"""Handing a run on: the adapter in PEFT's format or a whole model, with its calibrator, its record and a model card.

    RUN ── checks ── hidden folder: weights, calibrator.json, run.yaml, README.md ── its name ── the Hub, if asked

The folder appears whole or not at all, and nothing is pushed before it stands there. Equal runs give equal bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rango.console import Screen
from rango.errors import InputError, RunError, first_line
from rango.files import (
    ADAPTER_CONFIG,
    FULL_RECORD,
    check_writable,
    fingerprint,
    holds_files,
    read_json,
    write_json,
    write_text,
    write_yaml,
)
from rango.models.gguf import ENDING, WHEELS
from rango.models.sources import check_source
from rango.options import ExportOptions
from rango.output_folder import LOCK, new_folder
from rango.reports.run.model_card import Exported, render_card
from rango.training.run_folder import Run, read_record

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)

_WEIGHTS = (".safetensors", ".bin", ".gguf", "adapter_config.json", "config.json", ".index.json")
"""Endings of files that would be mixed with those of an export: a model with a stray adapter loads as another model."""


def export(
    run: Run | Path,
    *,
    out: Path | str,
    options: ExportOptions | None = None,
    screen: Screen | None = None,
    **given: Any,
) -> Path:
    """Write a run for other programs, and push it to the Hub if asked.

    Args:
        run: a complete run, or its folder.
        out: the folder to write. Where it holds this same export, it is left as it is and only pushed.
        options: what to write; single ones by keyword, such as merge=True.
        screen: where notes are shown; silent when absent.

    Returns:
        `out`.

    Raises:
        InputError: no complete run, `out` holds something else, options that do not fit; nothing is written then.
        RunError: the merged model is not right (nothing is written), or the push failed (the folder stays).
    """
    screen = screen or Screen(quiet=True)
    options = ExportOptions.build({**(options or ExportOptions()).model_dump(), **given})
    folder = run.path if isinstance(run, Run) else Path(run)
    out = Path(out)
    run = check_export(folder, out, options)
    hub = _Hub(options.push_to_hub, public=options.public, out=out) if options.push_to_hub else None
    if hub is not None:
        hub.check()  # before the minutes that merging takes
    if _is_complete(run, out, options):
        screen.say(f"{out} holds this export already: it stays as it is.")
    else:
        with new_folder(out) as work:
            _write(run, work, options, screen)
    if hub is not None:
        screen.say(f"pushed to {hub.push()}")
    return out


def check_export(folder: Path, out: Path, options: ExportOptions) -> Run:
    """The run to export; nothing in this check needs torch or the network.

    Raises:
        InputError: as `export`.
    """
    # A folder that is no run is named for what it is: whoever gives it has mostly meant one of its runs.
    if (folder / "study.yaml").exists():
        raise InputError(
            f"{folder} is a study, and an ensemble in it is several models; give one of its runs, {folder / 'runs'}/ID"
        )
    run = Run(folder)
    if not (folder / "run.yaml").is_file():
        raise InputError(f"{folder} is an evaluation, which has no model of its own; give the folder of a run")
    if not run.complete:
        raise InputError(
            f"{folder} is not complete (status {run.record.get('status')}); repeat its command to take it to the end"
        )
    checkpoint = _checkpoint(run, options)
    full = (checkpoint / FULL_RECORD).is_file()
    if not full and not (checkpoint / ADAPTER_CONFIG).is_file():
        raise InputError(f"{checkpoint} holds no adapter; expected a run that rango finetune has written")
    if options.dtype != "auto" and not (options.merge or full):
        raise InputError(
            f"dtype is {options.dtype} but an adapter is written as it was trained, in float32; give --merge too"
        )
    if options.merge and not full:
        check_source(run.config.model)
    if options.base_model is not None and not _is_hub_id(options.base_model):
        raise InputError(f"base_model is {options.base_model!r}; expected a Hub id, ORG/NAME")
    if options.push_to_hub is not None:
        _check_push(run, options, whole=options.merge or full)
    # An export inside its run would be copied with it, and would change what the run holds.
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"--out {out} is inside the run {folder}; give a folder of its own")
    if out.is_file():
        raise InputError(f"--out {out} is a file; give a folder that does not exist yet")
    check_writable(out.parent)
    if holds_files(out) and not _is_complete(run, out, options):
        raise InputError(f"--out {out} already holds other files; give a folder that does not exist yet")
    return run


def _check_push(run: Run, options: ExportOptions, *, whole: bool) -> None:
    from huggingface_hub import constants, get_token

    if not _is_hub_id(options.push_to_hub or "") or "/" not in (options.push_to_hub or ""):
        raise InputError(f"push_to_hub is {options.push_to_hub!r}; expected ORG/NAME")
    if not whole and options.base_model is None and not _is_hub_id(run.config.model):
        raise InputError(
            f"the adapter's base is {run.config.model}, which nobody else has; give its Hub id (--base-model "
            "ORG/NAME), or push the whole model (--merge)"
        )
    if constants.HF_HUB_OFFLINE:
        raise InputError("push_to_hub is given but HF_HUB_OFFLINE is set; unset it, or push later")
    if get_token() is None:
        raise InputError("push_to_hub is given but there is no token; set HF_TOKEN, or log in with hf auth login")


def _is_hub_id(name: str) -> bool:
    # A relative folder can be spelt like a Hub id, and loading prefers the folder.
    return _HUB_ID.fullmatch(name) is not None and not (Path(name).exists() or _is_gguf(name))


def _is_gguf(name: str) -> bool:
    return name in WHEELS or name.endswith(ENDING)


def _checkpoint(run: Run, options: ExportOptions) -> Path:
    return run.path / "adapter" / ("best" if options.state == "adapted" else "last")


def _identity(run: Run, options: ExportOptions) -> str:
    """A hash of the run and of what is written of it, by which a repeated command knows its own folder."""
    # Where it is pushed to changes no byte of the export: a push may be added to a finished one.
    wanted = options.model_dump(mode="json", exclude={"push_to_hub", "public"})
    return fingerprint((run.path / "run.yaml").read_bytes(), json.dumps(wanted, sort_keys=True))


def _is_complete(run: Run, out: Path, options: ExportOptions) -> bool:
    """Whether `out` holds this export of this run: its record is written with everything else, or not at all."""
    file = out / "run.yaml"
    if not file.is_file():
        return False
    exported = read_record(file).get("export")
    return isinstance(exported, Mapping) and exported.get("identity") == _identity(run, options)


def _write(run: Run, work: Path, options: ExportOptions, screen: Screen) -> None:
    """Write weights, calibrator, record and card into the hidden folder."""
    checkpoint, model = _checkpoint(run, options), run.config.model
    full = (checkpoint / FULL_RECORD).is_file()
    # The path of a folder says nothing on another machine: only its last part is published.
    base = options.base_model or (model if _is_hub_id(model) else None)
    made = Exported(
        kind="model" if options.merge or full else "adapter",
        full=full,
        base=base or _short(model),
        base_on_hub=base is not None,
        base_is_gguf=base is None and _is_gguf(model),
        source=model,
        license=options.license,
        measured=options.state == "adapted",
    )
    if made.kind == "model":
        screen.say(
            "· merging, writing and checking the model ..." if not full else "· writing and checking the model ..."
        )
        from rango.models.merging import write_merged

        written = write_merged(model, checkpoint, work, dtype=options.dtype)
        made = replace(made, written=written)
        notes = list(written.notes)
        if run.config.quantise != "none":
            notes.append(f"the run was measured on its base in {run.config.quantise}; what is written is not quantised")
        for note in notes:
            screen.say(f"· {note}")
    else:
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, work / file.name)
        config = read_json(work / ADAPTER_CONFIG)
        # PEFT loads the base by this name: it stays the run's where no better one is known.
        write_json(work / ADAPTER_CONFIG, {**config, "base_model_name_or_path": base or model})
        made = replace(made, adapter_config=config)
    # The calibrator was fitted to the best checkpoint's posteriors; those of another one need a fit of their own.
    if made.measured and (run.path / "calibrator.json").is_file():
        shutil.copyfile(run.path / "calibrator.json", work / "calibrator.json")
    record = _public_record(run, base or (model if made.kind == "adapter" else made.base))
    exported = {"identity": _identity(run, options), "kind": made.kind, "state": options.state}
    write_yaml(work / "run.yaml", {**record, "export": exported})
    write_text(work / "README.md", render_card(run, made))


def _public_record(run: Run, base: str) -> dict[str, Any]:
    """run.yaml without the paths of this machine. `rango evaluate --adapter` reads in it how the run asked."""
    config = {**run.part("config"), "model": base, "data": None, "task": _short(run.config.task)}
    model = run.record.get("model")
    named = {"model": {**model, "name": base}} if isinstance(model, Mapping) else {}
    kept = {key: value for key, value in run.record.items() if key != "digests"}  # of files in other places
    return {**kept, "config": config, **named}


def _short(name: str) -> str:
    """A Hub id or a task's name as it is, the last part of a path."""
    return name if name.count("/") <= 1 and not name.startswith(("/", ".", "~")) else Path(name).name


class _Hub:
    """A repository of the Hub that an export is pushed to; every failure is one line."""

    def __init__(self, repository: str, *, public: bool, out: Path) -> None:
        from huggingface_hub import HfApi

        self.repository, self.public, self.out = repository, public, out
        self.api = HfApi()

    def check(self) -> None:
        """Raise where the token is refused, or the repository would be more public than asked."""
        try:
            self.api.whoami()
            exists = self.api.repo_exists(self.repository)
            # A repository that does not exist yet will be made private.
            private = not exists or bool(self.api.repo_info(self.repository).private)
        except Exception as error:
            raise RunError(
                f"{self.repository} on the Hub cannot be pushed to ({first_line(error)}); nothing is written"
            ) from None
        if not private and not self.public:
            raise InputError(
                f"{self.repository} is public, and a push is private unless asked; give --public, or another name"
            )

    def push(self) -> str:
        """Push the folder and return its address.

        Raises:
            InputError: the repository holds weights that the export has not, which would be mixed with its own.
            RunError: the Hub refuses, or cannot be reached.
        """
        try:
            self.api.create_repo(self.repository, private=not self.public, exist_ok=True)
            stray = [name for name in self.api.list_repo_files(self.repository) if self._is_stray(name)]
            if not stray:
                self.api.upload_folder(
                    repo_id=self.repository,
                    folder_path=self.out,
                    commit_message="Export of a run of Rango",
                    ignore_patterns=[LOCK],
                )
        except Exception as error:
            raise RunError(
                f"{self.repository} could not be pushed ({first_line(error)}); the export is whole in {self.out}: "
                "repeat the command to push it"
            ) from None
        if stray:
            raise InputError(
                f"{self.repository} holds {stray[0]}, which would be mixed with what is in {self.out}; give another "
                "name, or delete that file there"
            )
        return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{self.repository}"

    def _is_stray(self, name: str) -> bool:
        return name.endswith(_WEIGHTS) and not (self.out / name).is_file()
