"""The encoder, a vision transformer."""
