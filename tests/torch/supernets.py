"""The supernets of DARTS, NAS-Bench-201 and NASNet as plain functions of a dictionary of tensors.

Written from the papers and the layout of the official code, so that numbers of `ndarts` can be
recomputed without it. `get(name, shape)` returns a tensor by its `state_dict` name; images are
NCHW; every batch norm uses the statistics of the batch. Works in any floating type. `get.relu` is
the activation, so that a caller can watch its inputs.
"""

import hashlib
from functools import partial

import torch
import torch.nn.functional as F

CELLS = ("alphas_normal", "alphas_reduce")
ARCHITECTURE = {"darts": CELLS, "nb201": ("arch_parameters",), "nasnet": CELLS}


class Stored:
    """Answers a network from a dictionary and checks each shape."""

    relu = staticmethod(F.relu)

    def __init__(self, tensors):
        self.tensors, self.asked = tensors, set()

    def __call__(self, name, shape):
        if name not in self.tensors:
            raise KeyError(f"the network needs a tensor `{name}` of shape {list(shape)}; there is none")
        if tuple(self.tensors[name].shape) != tuple(shape):
            found = list(self.tensors[name].shape)
            raise ValueError(f"`{name}` should have shape {list(shape)}, found {found}")
        self.asked.add(name)
        return self.tensors[name]


class Drawn:
    """Invents each tensor on first sight; what it drew, in order, is in `tensors`."""

    def __init__(self, seed, dtype):
        self.seed, self.dtype, self.tensors = seed, dtype, {}

    relu = staticmethod(F.relu)

    def __call__(self, name, shape):
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        normal = torch.randn(*shape, generator=generator, dtype=torch.float64)
        if name.startswith(("alphas_", "arch_")):
            value = 0.5 * normal
        elif len(shape) == 1:
            value = 0.1 * normal + float(name.endswith("weight"))
        else:
            value = normal * (2.0 / normal[0].numel()) ** 0.5
        self.tensors[name] = value.to(self.dtype)
        return self.tensors[name]


def norm(x, gain=None, shift=None):
    return F.batch_norm(x, None, None, gain, shift, training=True, eps=1e-5)


def affine_norm(get, name, x):
    channels = (x.shape[1],)
    return norm(x, get(f"{name}.weight", channels), get(f"{name}.bias", channels))


def conv(get, name, x, channels_out, kernel, stride=1, bias=False):
    weight = get(f"{name}.weight", (channels_out, x.shape[1], kernel, kernel))
    bias = get(f"{name}.bias", (channels_out,)) if bias else None
    return F.conv2d(x, weight, bias, stride=stride, padding=(kernel - 1) // 2)


def separable(get, depthwise, pointwise, x, kernel, stride, dilation):
    """relu → depthwise → pointwise → batch norm."""
    channels = x.shape[1]
    weight = get(f"{depthwise}.weight", (channels, 1, kernel, kernel))
    padding = dilation * (kernel - 1) // 2
    x = F.conv2d(get.relu(x), weight, None, stride, padding, dilation, groups=channels)
    return norm(conv(get, pointwise, x, channels, 1))


def factorized_reduce(get, name, x, channels_out):
    x = get.relu(x)
    first = conv(get, f"{name}.conv_1", x, channels_out // 2, 1, 2)
    second = conv(get, f"{name}.conv_2", x[:, :, 1:, 1:], channels_out // 2, 1, 2)
    return norm(torch.cat([first, second], 1))


def darts_op(get, prefix, op, x, stride):
    """One of the eight primitives, in the order of the official list."""
    name = f"{prefix}.{op}"
    if op == 0:
        return x[:, :, ::stride, ::stride] * 0.0
    if op == 1:
        return norm(F.max_pool2d(x, 3, stride, 1))
    if op == 2:
        return norm(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
    if op == 3:
        return x if stride == 1 else factorized_reduce(get, name, x, x.shape[1])
    kernel = 3 if op in (4, 6) else 5
    dilation = 1 if op in (4, 5) else 2
    x = separable(get, f"{name}.op.1", f"{name}.op.2", x, kernel, stride, dilation)
    if op in (4, 5):
        x = separable(get, f"{name}.op.5", f"{name}.op.6", x, kernel, 1, 1)
    return x


def along_both_axes(get, name, x, kernel, stride):
    """relu → 1×k → k×1 → batch norm."""
    channels, reach = x.shape[1], kernel // 2
    row = get(f"{name}.1.weight", (channels, channels, 1, kernel))
    column = get(f"{name}.2.weight", (channels, channels, kernel, 1))
    x = F.conv2d(get.relu(x), row, None, (1, stride), (0, reach))
    return norm(F.conv2d(x, column, None, (stride, 1), (reach, 0)))


def nasnet_op(get, prefix, op, x, stride):
    """One of the thirteen operations, in the order of the paper's list."""
    name = f"{prefix}.{op}"
    if op == 0:
        return x if stride == 1 else factorized_reduce(get, name, x, x.shape[1])
    if op in (1, 2):
        return along_both_axes(get, name, x, (3, 7)[op - 1], stride)
    if op == 3:
        return separable(get, f"{name}.op.1", f"{name}.op.2", x, 3, stride, 2)
    if op == 4:
        return norm(F.avg_pool2d(x, 3, stride, 1, count_include_pad=False))
    if op in (5, 6, 7):
        kernel = 2 * op - 7
        return norm(F.max_pool2d(x, kernel, stride, kernel // 2))
    if op in (8, 9):
        return norm(conv(get, f"{name}.op.1", get.relu(x), x.shape[1], 2 * op - 15, stride))
    kernel = 2 * op - 17
    x = separable(get, f"{name}.op.1", f"{name}.op.2", x, kernel, stride, 1)
    return separable(get, f"{name}.op.5", f"{name}.op.6", x, kernel, 1, 1)


# Nodes of a cell, ops of an edge, and what an op computes.
OF_CELLS = {"darts": (4, 8, darts_op), "nasnet": (5, 13, nasnet_op)}


def mixed_cell(get, space, name, inputs, channels, reduces, reduced_before, op_weights):
    nodes, ops, apply = OF_CELLS[space]
    states = []
    for i, x in enumerate(inputs):
        layer = f"{name}.preprocess{i}"
        if i == 0 and reduced_before:
            states.append(factorized_reduce(get, layer, x, channels))
        else:
            states.append(norm(conv(get, f"{layer}.op.1", get.relu(x), channels, 1)))
    edge = 0
    for node in range(nodes):
        total = 0
        for source in range(2 + node):
            stride = 2 if reduces and source < 2 else 1
            prefix = f"{name}._ops.{edge}._ops"
            results = (apply(get, prefix, op, states[source], stride) for op in range(ops))
            total = total + sum(c * y for c, y in zip(op_weights[edge], results))
            edge += 1
        states.append(total)
    return torch.cat(states[2:], 1)


def of_cells(space, get, x, channels, cells, classes):
    """Logits of the DARTS search network, with the cells of DARTS or of NASNet."""
    nodes, ops, _ = OF_CELLS[space]
    edges = nodes * (nodes + 3) // 2
    op_weights = [torch.softmax(get(a, (edges, ops)), -1) for a in ARCHITECTURE[space]]
    stem = affine_norm(get, "stem.1", conv(get, "stem.0", x, 3 * channels, 3))
    before, last, reduced_before = stem, stem, False
    for index in range(cells):
        reduces = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduces else 1
        output = mixed_cell(get, space, f"cells.{index}", (before, last), channels, reduces,
                            reduced_before, op_weights[int(reduces)])
        before, last, reduced_before = last, output, reduces
    return classifier(get, last, classes)


def nb201_edge(get, name, x, op_weights):
    channels = x.shape[1]
    results = (
        x * 0.0,
        x,
        norm(conv(get, f"{name}.2.op.1", get.relu(x), channels, 1, bias=True)),
        norm(conv(get, f"{name}.3.op.1", get.relu(x), channels, 3, bias=True)),
        F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    )
    return sum(c * y for c, y in zip(op_weights, results))


def nb201_block(get, name, x):
    """Residual block of stride 2 that doubles the channels."""
    channels, residual = 2 * x.shape[1], x
    for part, stride in (("conv_a", 2), ("conv_b", 1)):
        residual = conv(get, f"{name}.{part}.op.1", get.relu(residual), channels, 3, stride)
        residual = affine_norm(get, f"{name}.{part}.op.2", residual)
    return residual + conv(get, f"{name}.downsample.1", F.avg_pool2d(x, 2, 2), channels, 1)


def nb201(get, x, channels, cells, classes):
    """Logits of `TinyNetworkDarts`; `cells` is N, the cells of a stage."""
    op_weights = torch.softmax(get("arch_parameters", (6, 5)), -1)
    x = affine_norm(get, "stem.1", conv(get, "stem.0", x, channels, 3))
    index = 0
    for stage in range(3):
        if stage > 0:
            x = nb201_block(get, f"cells.{index}", x)
            index += 1
        for _ in range(cells):
            nodes, edge = [x], 0
            for node in range(1, 4):
                total = 0
                for source in range(node):
                    name = f"cells.{index}.edges.{node}<-{source}"
                    total = total + nb201_edge(get, name, nodes[source], op_weights[edge])
                    edge += 1
                nodes.append(total)
            x = nodes[-1]
            index += 1
    return classifier(get, get.relu(affine_norm(get, "lastact.0", x)), classes)


def classifier(get, x, classes):
    features = x.mean((2, 3))
    weight = get("classifier.weight", (classes, features.shape[1]))
    return F.linear(features, weight, get("classifier.bias", (classes,)))


NETWORKS = {"darts": partial(of_cells, "darts"), "nb201": nb201, "nasnet": partial(of_cells, "nasnet")}
