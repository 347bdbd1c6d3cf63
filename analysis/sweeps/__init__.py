"""What a sweep says: its frame, figures, importances and best trials. Start at `write_sweep`."""
