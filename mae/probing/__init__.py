"""What a frozen encoder knows: `probe` runs the probes of `kinds`, each in a file of its own (`linear`, `knn`)."""
