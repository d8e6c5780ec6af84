"""Rules derived again on dense matrices, entry by entry: nothing here comes from the package or from torch."""

import numpy as np


def conv_matrix(weight, shape, stride=1, padding=0, dilation=1, groups=1):
    """The matrix (out*oh*ow, in*h*w) of a convolution of (in,h,w) with `weight` (out,in/groups,kh,kw).

    `padding` is a number, or "same": the odd row or column goes to the end.
    """
    (channels, height, width), (outputs, _, rows, columns) = shape, weight.shape
    reach = [dilation * (size - 1) for size in (rows, columns)]
    before = [r // 2 for r in reach] if padding == "same" else [padding, padding]
    total = reach if padding == "same" else [2 * padding, 2 * padding]
    high = [(side + t - r - 1) // stride + 1 for side, t, r in zip((height, width), total, reach, strict=True)]
    matrix = np.zeros((outputs, *high, channels, height, width))
    each_in, each_out = channels // groups, outputs // groups
    for o in range(outputs):
        for c in range(each_in):
            for p, q in np.ndindex(*high):
                for i, j in np.ndindex(rows, columns):
                    y, x = p * stride - before[0] + i * dilation, q * stride - before[1] + j * dilation
                    if 0 <= y < height and 0 <= x < width:
                        matrix[o, p, q, o // each_out * each_in + c, y, x] = weight[o, c, i, j]
    return matrix.reshape(outputs * high[0] * high[1], -1)


def transposed_matrix(weight, shape, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The matrix (out*oh*ow, in*h*w) of a transposed convolution with `weight` (in,out/groups,kh,kw)."""
    (channels, height, width), (_, each_out, rows, columns) = shape, weight.shape
    high = [
        (side - 1) * stride - 2 * padding + dilation * (size - 1) + output_padding + 1
        for side, size in ((height, rows), (width, columns))
    ]
    matrix = np.zeros((each_out * groups, *high, channels, height, width))
    for c in range(channels):
        for o in range(each_out):
            for y, x in np.ndindex(height, width):
                for i, j in np.ndindex(rows, columns):
                    p, q = y * stride - padding + i * dilation, x * stride - padding + j * dilation
                    if 0 <= p < high[0] and 0 <= q < high[1]:
                        matrix[c // (channels // groups) * each_out + o, p, q, c, y, x] = weight[c, o, i, j]
    return matrix.reshape(each_out * groups * high[0] * high[1], -1)


def signed(values, epsilon):
    return values + np.where(values < 0, -epsilon, epsilon)


def distribute(rule, matrix, bias, x, relevance, *, epsilon, gamma, alpha, low, high):
    """Relevance (n,) at x of the relevance (m,) at y = matrix x + bias, each output's contributions on their own."""
    found = np.zeros_like(x)
    for row, b, r in zip(matrix, bias, relevance, strict=True):
        z = row * x
        if rule in ("zero", "epsilon"):
            found += z * r / signed(z.sum() + b, 0 if rule == "zero" else epsilon)
        elif rule in ("z-plus", "alpha-beta"):
            a = 1 if rule == "z-plus" else alpha
            up, down = z.clip(min=0), z.clip(max=0)
            found += a * up * r / signed(up.sum() + max(b, 0), epsilon)
            found -= (a - 1) * down * r / signed(down.sum() + min(b, 0), epsilon)
        elif rule == "gamma":
            favoured = np.sign(z.sum() + b)  # the sign of the contributions that count more
            more = np.where(np.sign(z) == favoured, 1 + gamma, 1) * z
            total = more.sum() + (1 + gamma if np.sign(b) == favoured else 1) * b
            found += more * r / signed(total, epsilon)
        elif rule == "z-box":
            up, down = row.clip(min=0), row.clip(max=0)
            part = z - low * up - high * down
            found += part * r / signed(part.sum() + b - max(b, 0) - min(b, 0), epsilon)
        elif rule == "flat":
            ones = (row != 0).astype(float)
            found += ones * r / signed(ones.sum(), epsilon)
        elif rule == "w-square":
            found += row**2 * r / signed((row**2).sum() + b**2, epsilon)
        else:
            raise ValueError(rule)
    return found
