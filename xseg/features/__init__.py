"""Latent vectors of images: what the head of a classifier reads, kept as a bank, and nearest neighbours in it."""
