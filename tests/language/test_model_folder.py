"""The folder of a pre-training: whole or not there, in its own place only, with its record."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.pretraining import ngram, story, tiny
from safetensors import SafetensorError

from rango.cli import main
from rango.console import Screen
from rango.errors import DivergenceError, InputError, RunError
from rango.files import read_yaml
from rango.language.corpus import Corpus
from rango.language.model_folder import held_out_measures, is_complete, is_written, work_folder, writing
from rango.language.options import PretrainConfig
from rango.language.pretrain import pretrain
from rango.language.trainer import Trainer
from rango.training.checkpoint import load_state
from rango.training.run_writer import versions


class TestRecord:
    def test_a_perplexity_beyond_all_numbers_is_infinite(self) -> None:
        corpus = Corpus(np.zeros(9, np.int32), np.zeros(9, np.int32), held_out_bytes=8, starts=(0,))
        measured = {nats: held_out_measures(nats, 8, corpus)["held_out_perplexity"] for nats in (2.0, 710.0, math.inf)}
        assert measured == {2.0: 7.3891, 710.0: math.inf, math.inf: math.inf}

    def test_measures_by_hand(self) -> None:
        corpus = Corpus(np.zeros(9, np.int32), np.zeros(9, np.int32), held_out_bytes=8, starts=(0,))
        # 4 tokens of 2 ln 2 nats are 8 bits, over 8 bytes.
        measured = held_out_measures(2 * math.log(2), 4, corpus)
        assert measured["held_out_perplexity"] == 4
        assert measured["held_out_bits_per_byte"] == 1

    def test_it_holds_the_versions_of_a_run(self, tmp_path: Path) -> None:
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        assert read_yaml(out / "pretrain.yaml")["versions"] == versions()


class TestPlace:
    def test_a_folder_that_holds_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(InputError, match=r"something else \(notes\.txt\); give another folder, or empty this one"):
            pretrain(story(100), out=tmp_path, config=tiny())
        with pytest.raises(InputError, match="notes.txt is a file; give a folder that does not exist yet"):
            pretrain(story(100), out=tmp_path / "notes.txt", config=tiny())
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        with pytest.raises(InputError, match="already holds something else"):
            pretrain(story(100), out=out, config=tiny(tokens=512))

    @pytest.mark.parametrize("hidden", [".git/HEAD", ".env", ".lm.unfinished/state.safetensors"])
    def test_a_hidden_file_is_something_else(self, tmp_path: Path, hidden: str) -> None:
        kept = tmp_path / "lm" / hidden
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"mine")
        with pytest.raises(InputError, match=r"lm already holds something else \(\.[a-z.]+\); give another folder"):
            pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        assert kept.read_bytes() == b"mine"

    def test_what_comes_into_the_folder_meanwhile_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "lm").mkdir()
        with pytest.raises(OSError, match="not empty"), work_folder(tmp_path / "lm", "x"):
            (tmp_path / "lm" / "late.txt").write_text("mine", encoding="utf-8")
        assert (tmp_path / "lm" / "late.txt").exists()

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            (".", "is the current folder, which cannot be replaced; give a folder in it or elsewhere"),
            ("../here", "is the current folder"),
            ("/", "^/ is a mount point, which cannot be replaced; give a folder in it or elsewhere"),
            ("file/x/lm", "file is a file, so .*/file/x/lm cannot be in it; give a folder that does not exist yet"),
        ],
    )
    def test_a_place_for_no_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
    ) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        Path("file").touch()
        with pytest.raises(InputError, match=message):
            pretrain(story(100), out=Path(out), config=tiny(tokens=256))
        assert [path.name for path in tmp_path.rglob("*")] == ["here", "file"]

    def test_a_relative_place_and_a_link(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("disk").mkdir()
        Path("link").symlink_to("disk")
        assert pretrain(story(100), out=Path("link/../link"), config=tiny(tokens=256)) == Path("link/../link")
        assert Path("link").is_symlink()
        assert Path("disk/config.json").is_file()

    def test_folders_made_for_a_refused_one_go(self, tmp_path: Path) -> None:
        (tmp_path / "q").mkdir()
        with pytest.raises(InputError, match="the text has"):
            pretrain(story(100), out=tmp_path / "q" / "r" / "s" / "lm", config=tiny(context=4096))
        assert [path.name for path in tmp_path.rglob("*")] == ["q"]

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        assert (pretrain(story(100), out=tmp_path, config=tiny(tokens=256)) / "config.json").is_file()


class TestUnfinished:
    def test_a_state_without_its_record_is_not_used(self, tmp_path: Path) -> None:
        clean = pretrain(story(100), out=tmp_path / "clean", config=tiny(tokens=256))
        stray = tmp_path / ".lm.unfinished" / "state.safetensors"
        stray.parent.mkdir()
        stray.write_bytes(b"of another run")
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        assert (out / "model.safetensors").read_bytes() == (clean / "model.safetensors").read_bytes()

    def test_repeating_a_finished_command_leaves_it(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
        before = (out / "pretrain.yaml").stat().st_mtime_ns
        assert pretrain(story(100), out=out, config=tiny(tokens=256), screen=Screen()) == out
        assert (out / "pretrain.yaml").stat().st_mtime_ns == before
        assert "is complete already" in " ".join(capfd.readouterr().err.split())

    def test_an_interruption_keeps_the_work_and_bad_input_takes_it_away(self, tmp_path: Path) -> None:
        out, work = tmp_path / "deep" / "lm", tmp_path / "deep" / ".lm.unfinished"
        with pytest.raises(KeyboardInterrupt), work_folder(out, "x"):
            raise KeyboardInterrupt
        assert read_yaml(work / "pretrain.yaml") == {"status": "running", "identity": "x"}
        with work_folder(out, "x") as again:
            assert again == work
        assert not work.exists()
        assert not is_complete(tmp_path / "none", "x")
        assert is_complete(out, "x")
        with pytest.raises(InputError, match="bad"), work_folder(tmp_path / "new" / "lm", "y"):
            raise InputError("bad")
        assert not (tmp_path / "new").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestFaultsOfThePlace:
    """What the disk does at the moment is no fault of the input, and takes no saved progress away."""

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ENOSPC, errno.EIO])
    def test_a_save_that_fails_leaves_the_last_state(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        config = tiny(tokens=128 * 6, save_minutes=0)
        whole = pretrain(story(100), out=tmp_path / "whole", config=config)
        make, made = tempfile.mkstemp, []

        def fail_at_the_fourth(*arguments: Any, **options: Any) -> tuple[int, str]:
            made.append(options["prefix"])
            if made.count(".state.safetensors.") == 4:
                raise OSError(number, os.strerror(number))
            return make(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr("tempfile.mkstemp", fail_at_the_fourth)
            with pytest.raises(
                RunError, match=rf"unfinished.* cannot be written \({os.strerror(number)}\); what was saved"
            ):
                pretrain(story(100), out=tmp_path / "lm", config=config)
        state = load_state(tmp_path / ".lm.unfinished" / "state.safetensors")
        assert [counters["step"] for counters in state.progress.values()] == [3]
        out = pretrain(story(100), out=tmp_path / "lm", config=config)
        assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    def test_bad_input_beside_a_state_leaves_it_and_a_divergence_does_not(self, tmp_path: Path) -> None:
        work = tmp_path / ".lm.unfinished"
        with pytest.raises(KeyboardInterrupt), work_folder(tmp_path / "lm", "x"):
            raise KeyboardInterrupt
        (work / "state.safetensors").write_bytes(b"hours of work")
        with pytest.raises(InputError, match="cannot be read"), work_folder(tmp_path / "lm", "x"):
            raise InputError("tokenizer cannot be read (Permission denied)")
        assert (work / "state.safetensors").read_bytes() == b"hours of work"
        with pytest.raises(DivergenceError), work_folder(tmp_path / "lm", "x"):
            raise DivergenceError("the loss is nan")
        assert not work.exists()

    @pytest.mark.parametrize("error", [SafetensorError, Exception])
    @pytest.mark.parametrize("writer", ["PreTrainedModel", "PreTrainedTokenizerFast"])
    @pytest.mark.parametrize("config", [tiny(tokens=128 * 4, save_minutes=0), ngram(vocabulary=300)])
    def test_a_full_disk_at_the_end_is_one_line(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        config: PretrainConfig,
        writer: str,
        error: type[Exception],
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise error("I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(f"transformers.{writer}.save_pretrained", fail)
        (tmp_path / "a.txt").write_text("\n".join(story(300)), encoding="utf-8")
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
        command = ["pretrain", str(tmp_path / "a.txt"), "--config", str(tmp_path / "c.yaml"), "--quiet"]
        assert main([*command, "--out", str(tmp_path / "lm")]) == 1
        message = capsys.readouterr().err
        assert f"{tmp_path}/.lm.unfinished cannot be written (No space left on device); what was" in message
        assert message.count("\n") == 1
        assert (tmp_path / ".lm.unfinished" / "state.safetensors").exists() == (config.model != "ngram")
        monkeypatch.undo()
        assert main([*command, "--out", str(tmp_path / "lm")]) == 0

    def test_a_fault_of_the_program_is_not_hidden(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), writing(tmp_path):
            raise KeyError("x")


class TestOtherProcesses:
    def test_a_second_pre_training_of_one_folder_is_refused(self, tmp_path: Path) -> None:
        with work_folder(tmp_path / "lm", "x") as work:
            with pytest.raises(InputError, match=rf"lm is being written by process {os.getpid()} on"):
                pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256))
            assert work.is_dir()
        assert [path.name for path in tmp_path.iterdir()] == ["lm"]

    @pytest.mark.parametrize("link", [".lm.unfinished", ".lm.unfinished/model.safetensors", ".lm.unfinished/words.txt"])
    def test_a_link_out_of_the_place_is_not_written_through(self, tmp_path: Path, link: str) -> None:
        (tmp_path / "place").mkdir()
        (tmp_path / "mine").mkdir()
        place = tmp_path / "place" / link
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(tmp_path / "mine")
        with pytest.raises(InputError, match=f"{place} leads out of"):
            pretrain(story(100), out=tmp_path / "place" / "lm", config=tiny(tokens=256))
        assert not list((tmp_path / "mine").iterdir())


class Killed(BaseException):
    """The process ends here."""


def dying(operation: Any, count: Iterator[int], at: int) -> Any:
    """An operation that ends the process instead, where it is number `at` of all that share a count."""

    def run(*arguments: Any, **options: Any) -> Any:
        if next(count) == at:
            raise Killed
        return operation(*arguments, **options)

    return run


class TestKilled:
    @pytest.mark.parametrize("config", [tiny(tokens=128 * 4, save_minutes=0), ngram(vocabulary=300)])
    def test_between_any_two_operations_and_repeated_it_is_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PretrainConfig
    ) -> None:
        whole = contents(pretrain(story(300), out=tmp_path / "whole", config=config))
        for kills in range(1, 200):
            out = tmp_path / str(kills)
            with monkeypatch.context() as patch:
                count = iter(range(1, 10_000))
                for place, name in [(os, "fsync"), *((Path, name) for name in ("replace", "rename", "rmdir", "mkdir"))]:
                    patch.setattr(place, name, dying(getattr(place, name), count, kills))
                try:
                    pretrain(story(300), out=out, config=config)
                    break
                except Killed:
                    pass
            record = tmp_path / f".{kills}.unfinished" / "pretrain.yaml"
            with monkeypatch.context() as patch:
                if record.exists() and is_written(record.parent):  # all is there, and is not made again
                    patch.delattr("rango.language.pretrain.tokenise")
                repeated = contents(pretrain(story(300), out=out, config=config))
            assert repeated.keys() == whole.keys()
            assert all(repeated[name] == whole[name] for name in whole if name != "pretrain.yaml")
            assert read_yaml(out / "pretrain.yaml")["status"] == "complete"
        assert kills > 15

    def test_the_model_is_on_the_disk_before_the_state_goes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events: list[str] = []
        sync, unlink = os.fsync, Path.unlink

        def noted_sync(handle: int) -> None:
            events.append(Path(f"/proc/self/fd/{handle}").readlink().name)
            sync(handle)

        def noted_unlink(path: Path, **options: Any) -> None:
            events.append(f"-{path.name}")
            unlink(path, **options)

        monkeypatch.setattr(os, "fsync", noted_sync)
        monkeypatch.setattr(Path, "unlink", noted_unlink)
        out = pretrain(story(100), out=tmp_path / "lm", config=tiny(tokens=256, save_minutes=0))
        gone = len(events) - 1 - events[::-1].index("-state.safetensors")
        for path in out.iterdir():
            if path.name != "pretrain.yaml":  # written atomically, under another name
                assert events.index(path.name) < gone
        assert ".lm.unfinished" in events[:gone]

    def test_what_a_kill_left_half_written_goes(self, tmp_path: Path) -> None:
        config = tiny(tokens=256)
        half = tmp_path / ".lm.unfinished" / ".state.safetensors.x1y2"

        def stop(_: object, *__: object) -> None:
            half.write_bytes(b"half")
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "run", stop)
            with pytest.raises(KeyboardInterrupt):
                pretrain(story(100), out=tmp_path / "lm", config=config)
        assert half.exists()
        out = pretrain(story(100), out=tmp_path / "lm", config=config)
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
