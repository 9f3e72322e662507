"""LAION's diffusion prior: another network between the same caption and the same embedding."""
