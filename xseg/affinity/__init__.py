"""Pair affinities between neighbouring nodes of a grid, the network that predicts them, and the walk along them."""
