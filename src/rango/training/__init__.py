"""Fine-tuning: objectives, the training loop, checkpoints, the run directory, evaluation."""
