"""Searches with Optuna. Start with `run_sweep.py`: a sweep from request to record. `ask_and_tell.py` has its trials."""
