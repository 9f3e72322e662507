"""What a trained cascade makes of its latents: the paper's probes, as images and as tables."""
