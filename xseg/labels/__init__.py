"""Labels from heatmaps: a mean-field CRF and its backends, confident labels, masks."""
