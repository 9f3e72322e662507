"""What a trained cascade makes of its latents: the paper's probes, as pictures and as tables."""
