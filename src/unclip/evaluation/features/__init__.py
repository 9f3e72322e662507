"""Features of images: networks by name, and what is accumulated of their outputs."""
