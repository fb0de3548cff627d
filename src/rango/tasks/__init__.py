"""What is asked: instances, splits, prompts, and one file per task."""
