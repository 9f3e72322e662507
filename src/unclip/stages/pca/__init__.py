"""The PCA codec of image embeddings, for the autoregressive prior."""
