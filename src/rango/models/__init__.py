"""Models: loading from the Hub or a folder, LoRA and its placements, adapters in PEFT's format, LSTM and n-gram."""
