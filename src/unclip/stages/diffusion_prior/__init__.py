"""The diffusion prior: caption to image embedding, predicting x0."""
