"""What a study says: its table, figure, answer and files. Start at `write_study`; `paper_findings` checks the paper."""
