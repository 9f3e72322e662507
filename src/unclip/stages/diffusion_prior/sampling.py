"""Sampling image embeddings from the diffusion prior."""

from unclip.stages._prior.diffusion_sampling import sample_prior

__all__ = ["sample_prior"]
