"""Settings: the typed tree (`tree`), how a config comes about (`resolve`), what identifies a run (`fingerprint`)."""
