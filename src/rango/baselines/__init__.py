"""Baselines: what a reader expects beside an adapted model. TF-IDF, a linear probe of the base, a tuned encoder."""
