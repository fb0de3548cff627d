"""Small language models: pre-training, n-grams, generation, scored texts and spelling."""
