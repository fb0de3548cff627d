"""What a run shows: figures, findings in words, the page, the table for the terminal."""
