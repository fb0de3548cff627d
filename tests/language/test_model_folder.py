"""The folder of a pre-training: whole or not there, in its own place only, with its record."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.pretraining import story, tiny

from rango.console import Screen
from rango.errors import InputError
from rango.files import read_yaml
from rango.language.corpus import Corpus
from rango.language.model_folder import held_out_measures, is_complete, work_folder
from rango.language.pretrain import pretrain
from rango.training.run_folder import versions


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
