"""What the commands of `cli.py` have in common: their options, how they speak, how they fail."""
