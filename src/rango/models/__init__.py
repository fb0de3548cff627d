"""Who answers: loading, LoRA and its placements."""
