"""Corruptions of low-resolution images, batched, on any device."""
