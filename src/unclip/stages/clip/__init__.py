"""CLIP: contrastive image and text encoders."""
