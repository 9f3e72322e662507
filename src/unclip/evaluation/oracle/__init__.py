"""Reads a scene's image back into its ground truth, without learning."""
