"""Images: where they come from (`sources`), decoded once (`dataset`) or at each use (`streaming`), augmented."""
