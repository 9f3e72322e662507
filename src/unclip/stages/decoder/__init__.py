"""The decoder: image embedding and caption to a 64 px image."""
