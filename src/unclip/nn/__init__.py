"""Building blocks of the networks: attention, transformer, residual blocks, U-Net, timesteps."""
