"""How it learns: objectives, the loop, checkpoints, the run directory."""
