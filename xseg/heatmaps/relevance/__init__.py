"""Relevance propagation: a forward pass written down, rules for its steps, and the way back."""

from xseg.heatmaps.relevance import agf, attribution, lrp, rap  # noqa: F401 - importing registers the methods
