"""What `fuzz` attacks: for each reader a small folder of valid files, and how Rango's commands read one of them.

A reader raises InputError (`WrongAnswerError` for what an endpoint sends) for what it refuses; everything else is a
fault. What was read is used as the next step of a command would, since a value that nobody checked ends there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fuzz_file_readers import (
    baselines,
    calibrators,
    config_file,
    costs,
    decision_log,
    gates,
    long_log,
    piped_rows,
    posteriors_files,
    row_streams,
    study_file,
    table_task,
    task_yaml,
)
from fuzz_made_readers import (
    adapters,
    answer_logs,
    arpa,
    endpoint_replies,
    gguf,
    http,
    model_config,
    ngram_folder,
    probes,
    run_folder,
    small_texts,
    states,
    study_folder,
    unfinished_answers,
)
from fuzz_prepared import Prepared

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
