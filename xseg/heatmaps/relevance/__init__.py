"""Relevance propagation: a forward pass written down, rules for its steps, and the way back."""
