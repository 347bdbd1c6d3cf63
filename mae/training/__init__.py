"""Pretraining: a step (`step`), the loop from the first to the result (`loop`), checkpoints, learning rates."""
