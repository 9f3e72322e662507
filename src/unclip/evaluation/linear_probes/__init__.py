"""Linear probes of CLIP embeddings: predicted aesthetics and predicted preference."""
