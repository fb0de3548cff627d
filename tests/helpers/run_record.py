"""The record of a run without a model, and its posteriors, for what writes and reads run directories."""

from __future__ import annotations

from typing import Any

import numpy as np

from rango.decisions import Posteriors
from rango.options import FinetuneConfig

CONFIG = FinetuneConfig.build({"model": "phi", "task": "toy", "lora": {"rank": 4}})
FINGERPRINTS = {"model": "aa", "task": "bb"}
RECORD: dict[str, Any] = {"config": CONFIG.model_dump(mode="json"), "fingerprints": FINGERPRINTS, "notes": ["a note"]}
POSTERIORS = Posteriors.from_scores(np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([0, 2]), ("x", "y"))
