"""Writing a run directory: what a crash, a second process and another configuration may meet."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from helpers.run_record import CONFIG, FINGERPRINTS, POSTERIORS

from rango.errors import InputError
from rango.files import read_yaml, write_yaml
from rango.training.run_folder import Run, read_log
from rango.training.run_writer import RunWriter, open_output, remove_state, versions


def test_a_failed_run_says_why_until_it_begins_again(writer: RunWriter) -> None:
    writer.fail("the loss became nan")
    assert Run(writer.path).failure == "the loss became nan"
    writer.begin()
    assert Run(writer.path).failure is None
    writer.prune(7, best_step=5)
    record = read_yaml(writer.path / "run.yaml")
    assert (record["status"], record["reason"], record["best_step"]) == ("pruned", "pruned at step 7", 5)


def test_a_note_is_stored_once(writer: RunWriter) -> None:
    writer.write_note("not calibrated")
    writer.write_note("not calibrated")
    assert Run(writer.path).record["notes"] == ["a note", "not calibrated"]


def test_only_one_of_several_processes_writes(tmp_path: Path) -> None:
    silent = RunWriter(tmp_path / "run", {}, writes=False)
    silent.begin()
    silent.append_log({"step": 0})
    silent.rewind_log(-1)
    silent.write_posteriors("base", "test", POSTERIORS)
    silent.write_metrics({})
    silent.finish()
    assert not (tmp_path / "run").exists()
    assert silent.record == {"status": "complete"}, "the record is the same in every process"


def test_a_rewound_log_ends_at_the_saved_step_and_drops_a_line_cut_by_a_crash(writer: RunWriter) -> None:
    assert read_log(writer.path) == []
    for step in range(4):
        writer.append_log({"step": step})
    with (writer.path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "tr')
    assert [record["step"] for record in read_log(writer.path)] == [0, 1, 2, 3]
    writer.rewind_log(2)
    assert (writer.path / "log.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n{"step": 2}\n'
    writer.rewind_log(-1)
    assert read_log(writer.path) == []


def test_an_output_folder_is_new_or_of_the_same_configuration(writer: RunWriter, tmp_path: Path) -> None:
    assert open_output(tmp_path / "new", CONFIG, FINGERPRINTS) is None
    run = open_output(writer.path, CONFIG, FINGERPRINTS)
    assert run is not None
    assert run.path == writer.path
    other = CONFIG.model_copy(update={"lora": CONFIG.lora.model_copy(update={"rank": 5})})
    with pytest.raises(InputError, match=r"already holds another run: its lora\.rank is 4, asked is 5; give another"):
        open_output(writer.path, other, FINGERPRINTS)
    with pytest.raises(InputError, match=r"already holds another run: its task is 'bb', asked is 'cc'"):
        open_output(writer.path, CONFIG, {**FINGERPRINTS, "task": "cc"})
    write_yaml(writer.path / "run.yaml", {"config": CONFIG.model_dump(mode="json")})
    with pytest.raises(InputError, match=r"run\.yaml has no fingerprints"):
        open_output(writer.path, CONFIG, FINGERPRINTS)


def test_versions_name_what_decides_a_result() -> None:
    assert set(versions()) == {"python", "rango", "torch", "transformers", "tokenizers", "numpy", "scipy"}


def test_a_full_disk_under_the_log_names_it(writer: RunWriter) -> None:
    (writer.path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        writer.append_log({"step": 0})
    assert error.value.filename == str(writer.path / "log.jsonl")


def test_a_state_that_cannot_be_removed_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_state(tmp_path)  # there is none
    state = tmp_path / "state"
    state.mkdir()

    def refused(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "state.safetensors")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", refused)
        with pytest.raises(OSError, match="Permission denied") as caught:
            remove_state(tmp_path)
    assert caught.value.filename == str(state)
    remove_state(tmp_path)
    assert not state.exists()
