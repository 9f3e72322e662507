"""Two-way maps of names: weights of other projects under our names, and back."""
