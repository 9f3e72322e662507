"""Text to image from trained artifacts; needs torch, not Lightning."""
