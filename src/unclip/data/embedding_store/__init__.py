"""Embeddings on disk: their layout, reading them, and training batches made of them."""
