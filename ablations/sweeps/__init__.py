"""Searches with Optuna. Start with `run.py`, a sweep from request to record; its trials are in `ask_and_tell.py`."""
