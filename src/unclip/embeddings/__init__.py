"""Embedding spaces: normalisation and geometry on pure tensors."""
