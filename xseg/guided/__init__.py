"""Model guidance: losses on a classifier's heatmaps, so that they become segmentations or leave out what misleads."""
