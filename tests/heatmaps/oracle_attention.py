"""A vision transformer and its attention maps written out for one image in float64. Imports nothing from xseg or timm.

The state dict has timm's names; autograd gives the gradients with respect to the attention matrices.
"""

import math

import torch

EPS = 1e-6


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def tokens(state, image, patch):
    """Patches row by row, each times the embedding's weights, after the class token; positions added."""
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    height, width = image.shape[1] // patch, image.shape[2] // patch
    rows = []
    for i in range(height):
        for j in range(width):
            block = image[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            rows.append((weight * block).sum((1, 2, 3)) + bias)
    rows = torch.stack(rows)
    if "cls_token" in state:
        rows = torch.cat([state["cls_token"][0], rows])
    return rows + state["pos_embed"][0], (height, width)


def run(state, image, patch, heads, pool):
    """Logits (C,), attention matrices (heads,T,T) of each block, and the grid.

    Args:
        state: timm's state dict, float64.
        image: (3,H,W).
        patch: side of a patch.
        heads: number of heads.
        pool: `token`, or `avg` of the patches with the norm before (no class token) or after it (`fc_norm`).
    """
    x, grid = tokens(state, image, patch)
    attentions = []
    for b in range(sum(key.endswith("attn.qkv.weight") for key in state)):
        of = {key.removeprefix(f"blocks.{b}."): value for key, value in state.items() if key.startswith(f"blocks.{b}.")}
        hidden = layer_norm(x, of["norm1.weight"], of["norm1.bias"])
        packed = hidden @ of["attn.qkv.weight"].T + of["attn.qkv.bias"]
        width = packed.shape[1] // 3
        size = width // heads
        mixed, matrices = [], []
        for h in range(heads):
            q, k, v = (packed[:, p * width + h * size : p * width + (h + 1) * size] for p in range(3))
            scores = torch.exp(q @ k.T / math.sqrt(size))
            matrices.append(scores / scores.sum(1, keepdim=True))
            mixed.append(v)
        matrix = torch.stack(matrices)
        if not matrix.requires_grad:
            matrix.requires_grad_()
        attentions.append(matrix)
        joined = torch.cat([matrix[h] @ mixed[h] for h in range(heads)], 1)
        x = x + joined @ of["attn.proj.weight"].T + of["attn.proj.bias"]
        hidden = layer_norm(x, of["norm2.weight"], of["norm2.bias"])
        x = x + gelu(hidden @ of["mlp.fc1.weight"].T + of["mlp.fc1.bias"]) @ of["mlp.fc2.weight"].T + of["mlp.fc2.bias"]
    if "norm.weight" in state:
        x = layer_norm(x, state["norm.weight"], state["norm.bias"])
    first = int("cls_token" in state)
    x = x[0] if pool == "token" else x[first:].mean(0)
    if "fc_norm.weight" in state:
        x = layer_norm(x, state["fc_norm.weight"], state["fc_norm.bias"])
    return state["head.weight"] @ x + state["head.bias"], attentions, grid


def read(matrix, grid, pool):
    """Row of the class token, or the mean of the patches' rows, of (T,T), at the patches: (h,w)."""
    first = matrix.shape[0] - grid[0] * grid[1]
    row = matrix[0] if pool == "token" else matrix[first:].mean(0)
    return row[first:].reshape(grid)


def raw(attentions, grid, pool):
    return read(attentions[-1].mean(0), grid, pool)


def rollout(attentions, grid, pool, start):
    """Chefer et al.: (A + I) over its row sums, multiplied from block `start` on; the full product (T,T) too."""
    product = torch.eye(attentions[0].shape[1], dtype=torch.float64)
    for attention in attentions[start:]:
        mixed = attention.mean(0) + torch.eye(len(product), dtype=torch.float64)
        product = mixed / mixed.sum(1, keepdim=True) @ product
    return read(product, grid, pool), product


def vit_explain(attentions, grid, share, heads):
    """The tool vit-explain for one image, its division along the wrong axis and all, but for the last one."""
    product = torch.eye(attentions[0].shape[1], dtype=torch.float64)
    for attention in attentions:
        fused = {"mean": attention.mean(0), "max": attention.amax(0), "min": attention.amin(0)}[heads].clone()
        flat = fused.flatten()
        order = sorted(range(len(flat)), key=lambda place: flat[place].item())
        for place in order[: int(len(flat) * share)]:
            if place != 0:
                flat[place] = 0
        mixed = (flat.view_as(fused) + torch.eye(len(product), dtype=torch.float64)) / 2
        for j, total in enumerate(mixed.sum(1).tolist()):
            mixed[:, j] /= total
        product = mixed @ product
    return read(product, grid, "token")


def gradients(logit, attentions):
    return torch.autograd.grad(logit, attentions, retain_graph=True)


def grad_cam(attention, gradient, grid, pool):
    """Channels: each head's row of the class token, or each head's row of each patch."""
    first = attention.shape[1] - grid[0] * grid[1]
    rows = [0] if pool == "token" else range(first, attention.shape[1])
    total = torch.zeros(grid[0] * grid[1], dtype=torch.float64)
    for h in range(len(attention)):
        for row in rows:
            total += gradient[h, row, first:].mean() * attention[h, row, first:]
    return (total / (len(attention) * len(rows))).clamp(min=0).reshape(grid)


def gradient_rollout(attentions, slopes, grid, pool, start=0):
    """R = I, R += mean_h ReLU(dy/dA A) R; the whole of R (T,T) too."""
    relevance = torch.eye(attentions[0].shape[1], dtype=torch.float64)
    for attention, slope in list(zip(attentions, slopes, strict=True))[start:]:
        relevance = relevance + (attention * slope).clamp(min=0).mean(0) @ relevance
    return read(relevance - torch.eye(len(relevance), dtype=torch.float64), grid, pool), relevance
