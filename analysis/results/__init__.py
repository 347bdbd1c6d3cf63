"""Results as one tidy frame (`frame`), read from runs, MLflow or files (`loading`)."""
