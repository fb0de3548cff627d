"""What it shows: tables, figures, the page."""
