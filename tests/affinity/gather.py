"""psa's way to pair affinities: gather both ends of every pair. A second opinion, and the time to beat."""

import torch


def gathered_affinity(features, offsets):
    """(B, C, h, w), offsets (dy, dx) -> list of affinities (B, n_k) per offset, row-major over the first nodes."""
    _, _, height, width = features.shape
    flat = features.flatten(2)
    nodes = torch.arange(height * width, device=features.device).view(height, width)
    found = []
    for dy, dx in offsets:
        first = nodes[: height - dy, max(-dx, 0) : width - max(dx, 0)].reshape(-1)
        ends = torch.index_select(flat, 2, first), torch.index_select(flat, 2, first + dy * width + dx)
        found.append(torch.exp(-torch.mean(torch.abs(ends[1] - ends[0]), dim=1)))
    return found
