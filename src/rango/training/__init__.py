"""How it learns: objectives, the loop, checkpoints, pre-training."""
