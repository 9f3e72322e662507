"""What the stages that train a diffusion network share."""
