#!/usr/bin/env python3
"""Prints the PyTorch values that `tests/oracle/network_checks.rs` holds as constants.

The supernets of `supernets.py` in float64, at weights, images and directions drawn from their names
by the rule of `tests/oracle/draw.rs`: loss, logits, ∇L·u and uᵀ∇²L·v. Needs: torch.
"""

import torch
import torch.nn.functional as F

from supernets import NETWORKS

MASK = (1 << 64) - 1


def uniform(name, *shape):
    """Numbers in [−1, 1): SplitMix64 at FNV-1a(name) + i."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x0100000001B3 & MASK
    count = torch.Size(shape).numel()
    return torch.tensor([split_mix(seed + i) for i in range(count)], dtype=torch.float64).view(shape)


def split_mix(state):
    z = state * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return ((z ^ z >> 31) >> 11) / (1 << 52) - 1.0


class Drawn:
    """The rule of `Draw` in `tests/oracle/network/mod.rs`."""

    def __init__(self):
        self.tensors = {}

    def __call__(self, name, shape):
        value = uniform(f"weights:{name}", *shape)
        if name.startswith(("alphas_", "arch_")):
            pass
        elif len(shape) == 1:
            value = 0.2 * value + float(name.endswith("weight"))
        else:
            value = value * (3.0 / value[0].numel()) ** 0.5
        self.tensors[name] = value.requires_grad_()
        return self.tensors[name]


def main():
    batch, side, classes = 3, 8, 4
    images = uniform("images", batch, side, side, 3).permute(0, 3, 1, 2)
    labels = torch.tensor([(3 * image + 1) % classes for image in range(batch)])
    for space, channels, cells in (("darts", 2, 3), ("nb201", 3, 1)):
        drawn = Drawn()
        logits = NETWORKS[space](drawn, images, channels, cells, classes)
        loss = F.cross_entropy(logits, labels)
        names, tensors = list(drawn.tensors), list(drawn.tensors.values())
        u, v = ([uniform(f"{salt}:{n}", *x.shape) for n, x in zip(names, tensors)] for salt in "uv")
        gradient = torch.autograd.grad(loss, tensors, create_graph=True)
        slope = sum((g * d).sum() for g, d in zip(gradient, u))
        product = torch.autograd.grad(slope, tensors)
        curvature = sum((p * d).sum() for p, d in zip(product, v))
        print(space, "loss", repr(loss.item()))
        print(space, "logits", logits.flatten().tolist())
        print(space, "slope", repr(slope.item()), "curvature", repr(curvature.item()))


if __name__ == "__main__":
    main()
