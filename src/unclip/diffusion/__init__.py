"""The diffusion core: pure functions and small classes on tensors, knowing no network."""
