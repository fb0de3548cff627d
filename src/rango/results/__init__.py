"""What a study found: outcomes, statistics over seeds and instances, and the table. No model is needed."""
