"""What a trained encoder makes of single images: features, neighbours, and which classes a probe confuses."""
