"""What any long work needs, whatever it computes: random numbers, progress, stopping, processes, the machine."""
