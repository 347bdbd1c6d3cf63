"""Many trainings: studies, sweeps, and the processes that do their jobs. Start with `studies/paper.py`."""
