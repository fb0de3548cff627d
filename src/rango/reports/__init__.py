"""What is shown: tables, figures and pages, from stored files and without the model."""
