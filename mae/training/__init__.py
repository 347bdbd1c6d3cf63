"""Pretraining: a step (`trainer`), the loop from the first to the result (`loop`), checkpoints, learning rates."""
