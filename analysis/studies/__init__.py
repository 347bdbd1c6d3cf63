"""What a study says: its table, figure, answer and files. Start at `files`; `paper_findings` holds it to the paper."""
