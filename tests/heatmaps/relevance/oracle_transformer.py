"""Relevance through a plain ViT derived again, one image at a time, by the gradients of each step: nothing of ours.

The network is timm's: blocks of norm, attention, norm, MLP with residual sums; its head reads the first token or the
mean of all. Every function is written from the formulas of Chefer, Gur and Wolf 2021 and of their code.
"""

import torch
from torch.nn import functional


def sd(a, b):
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b + 1e-9))


def pull(outputs, inputs, seed):
    return torch.autograd.grad(outputs, inputs, seed)


class Oracle:
    """Runs the network on one image (3,H,W) and keeps what relevance needs, then goes back from one class."""

    def __init__(self, net, image, ours):
        self.net, self.ours, self.image = net, ours, image[None]
        x = net.patch_embed.proj(self.image)
        self.grid = tuple(x.shape[2:])
        patches = x.flatten(2).mT
        token = net.cls_token.expand(1, -1, -1) if net.cls_token is not None else patches[:, :0]
        self.embedded = torch.cat([token, patches], 1)
        self.position = net._pos_embed(net.patch_embed(self.image)) - self.embedded
        x = self.embedded + self.position
        self.prefix, self.blocks = token.shape[1], []
        for block in net.blocks:
            x, kept = self._run(block, x.detach())
            self.blocks.append(kept)
        self.last = net.norm(x)
        self.average = net.global_pool == "avg"
        self.read = self.last[:, self.prefix :].mean(1) if self.average else self.last[:, 0]
        self.features = net.fc_norm(self.read)

    def _run(self, block, x):
        kept = {"x": x, "normed": block.norm1(x)}
        attention = block.attn
        batch, tokens, width = x.shape
        qkv = attention.qkv(kept["normed"]).reshape(batch, tokens, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        kept["query"], kept["key"], kept["value"] = query * attention.scale, key, value
        kept["products"] = kept["query"] @ key.transpose(2, 3)
        kept["weights"] = kept["products"].softmax(3)
        kept["mixed"] = kept["weights"] @ value
        kept["heads"] = kept["mixed"].transpose(1, 2).reshape(batch, tokens, width)
        kept["attended"] = attention.proj(kept["heads"])
        kept["middle"] = x + kept["attended"]
        kept["hidden"] = block.norm2(kept["middle"])
        kept["active"] = functional.gelu(block.mlp.fc1(kept["hidden"]))
        kept["added"] = block.mlp.fc2(kept["active"])
        kept["end"] = kept["middle"] + kept["added"]
        return kept["end"], kept

    def linear(self, layer, x, r):
        """z-plus: both signs of inputs over one denominator, or over their own."""
        halves = []
        for up in (True, False):
            weight, part = layer.weight.detach(), x.detach()
            weight, part = (t.clamp(min=0) if up else t.clamp(max=0) for t in (weight, part))
            part.requires_grad_()
            halves.append((part, functional.linear(part, weight)))
        total = halves[0][1] + halves[1][1]
        return sum(part * pull(z, part, sd(r, total if self.ours else z))[0] for part, z in halves)

    def product(self, u, v, r):
        """Each factor times its gradient, halved."""
        u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
        z = u @ v
        gradients = pull(z, (u, v), sd(r, z.detach()))
        return u * gradients[0] / 2, v * gradients[1] / 2

    def add(self, a, b, r):
        """In proportion; ours scales both to shares of what arrives."""
        share = sd(r, a + b)
        a, b = a * share, b * share
        if not self.ours:
            return a, b
        size = a.sum().abs() + b.sum().abs()
        return tuple(part * sd(sd(part.sum().abs(), size) * r.sum(), part.sum()) for part in (a, b))

    def explain(self, target):
        """Relevance of the class: of the weights and the input of each block, and of the pixels."""
        hot = functional.one_hot(torch.tensor([target]), self.net.num_classes).to(self.image)
        r = self.linear(self.net.head, self.features, hot)
        at_tokens = torch.zeros_like(self.last)
        if self.average:
            count = self.last.shape[1] - self.prefix
            at_tokens[:, self.prefix :] = self.last[:, self.prefix :] * (sd(r, self.read) / count)[:, None]
        else:
            at_tokens[:, 0] = self.read * sd(r, self.read)
        r, weights, inputs = at_tokens, [], []
        for block, kept in list(zip(self.net.blocks, self.blocks, strict=True))[::-1]:
            of_weights, r = self._back(block, kept, r)
            weights.insert(0, of_weights[0])
            inputs.insert(0, r[0])
        r, _ = self.add(self.embedded, self.position, r)
        return weights, inputs, self._pixels(r[:, self.prefix :])

    def _back(self, block, kept, r):
        skipped, r = self.add(kept["middle"], kept["added"], r)
        r = self.linear(block.mlp.fc1, kept["hidden"], self.linear(block.mlp.fc2, kept["active"], r))
        r = kept["middle"] * (sd(skipped, kept["middle"]) + sd(r, kept["middle"]))
        skipped, r = self.add(kept["x"], kept["attended"], r)
        r = self.linear(block.attn.proj, kept["heads"], r)
        r = r.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2)
        of_weights, of_value = self.product(kept["weights"], kept["value"], r)
        of_query, of_key = self.product(kept["query"], kept["key"].mT, of_weights)
        r = torch.stack([of_query, of_key.mT, of_value]).permute(1, 3, 0, 2, 4).flatten(2)
        r = self.linear(block.attn.qkv, kept["normed"], r)
        return of_weights, kept["x"] * (sd(skipped, kept["x"]) + sd(r, kept["x"]))

    def _pixels(self, r):
        proj, r = self.net.patch_embed.proj, r.mT.unflatten(2, self.grid)
        x = self.image.detach().requires_grad_()
        low, high = (torch.full_like(x, bound.item()).requires_grad_() for bound in (x.min(), x.max()))
        weight, stride = proj.weight.detach(), proj.stride
        z = functional.conv2d(x, weight, stride=stride)
        z_low = functional.conv2d(low, weight.clamp(min=0), stride=stride)
        z_high = functional.conv2d(high, weight.clamp(max=0), stride=stride)
        share = sd(r, (z - z_low - z_high).detach())
        parts = [v * pull(out, v, share)[0] for v, out in ((x, z), (low, z_low), (high, z_high))]
        return (parts[0] - parts[1] - parts[2]).sum(1)[0]

    def slopes(self, target):
        """Gradient of the logit with respect to the weights of each block: to a zero that is added to them."""
        net, moved = self.net, [torch.zeros_like(kept["weights"]).requires_grad_() for kept in self.blocks]
        x = self.embedded + self.position
        for block, zero in zip(net.blocks, moved, strict=True):
            query, key, value = (
                block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            )
            weights = (query @ key.mT * block.attn.scale).softmax(3) + zero
            x = x + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
            x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
        x = net.norm(x)
        x = net.fc_norm(x[:, self.prefix :].mean(1) if self.average else x[:, 0])
        return [gradient[0] for gradient in torch.autograd.grad(net.head(x)[0, target], moved)]

    def attribution(self, target, start, gradient=True):
        """Transformer attribution (h,w), or its relevance rollout without gradients."""
        weights, slopes = self.explain(target)[0], self.slopes(target)
        product = torch.eye(self.last.shape[1], dtype=self.last.dtype)
        for relevance, slope in list(zip(weights, slopes, strict=True))[start:]:
            matrix = (relevance * slope if gradient else relevance).clamp(min=0).mean(0)
            product = (torch.eye(len(matrix), dtype=matrix.dtype) + matrix) @ product
        return self._row(product - torch.eye(len(product), dtype=product.dtype))

    def partial(self, target):
        """Partial LRP (h,w)."""
        return self._row(self.explain(target)[0][-1].clamp(min=0).mean(0))

    def _row(self, matrix):
        rows = matrix[self.prefix :].mean(0) if self.average else matrix[0]
        return rows[self.prefix :].unflatten(0, self.grid)
