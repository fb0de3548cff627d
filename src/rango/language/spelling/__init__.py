"""Spelling with a language model: words in improbable places, and what was meant."""
