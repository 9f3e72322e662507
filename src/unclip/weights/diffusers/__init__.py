"""Component folders of diffusers: Karlo, its image variations, priors of Kandinsky."""
