"""unclip: train, ablate, reproduce and use the whole unCLIP (DALL-E 2) system."""

__version__ = "0.1.0"
