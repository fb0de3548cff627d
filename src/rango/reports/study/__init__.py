"""What a study shows: sections of its table, figures, findings in words, page, terminal and LaTeX."""
