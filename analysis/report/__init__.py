"""Results shown: on a terminal, as one document, as notebooks."""
