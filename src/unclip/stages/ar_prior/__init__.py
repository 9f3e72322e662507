"""The autoregressive prior: caption to image embedding, code by code."""
