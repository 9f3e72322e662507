"""From bytes to samples: sources, readers, decoding, order, loading, packing, inspection."""
