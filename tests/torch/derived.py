"""The derived networks of the official codes, retyped: NetworkCIFAR and NetworkImageNet of DARTS
(model.py, operations.py) and TinyNetwork of NAS-Bench-201. Names of modules are theirs, so that a
state_dict moves both ways. The auxiliary head is left out: it takes no part in evaluation."""

import re
from collections import namedtuple

import torch
from torch import nn

Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")


def parse(text):
    """`Genotype(…)` as DARTS prints it, or a NAS-Bench-201 string as a list of (op, from) a node."""
    text = text.strip()
    if text.startswith("|"):
        nodes = text.split("+")
        return [[tuple(edge.split("~")) for edge in node.strip("|").split("|")] for node in nodes]
    body = text[text.index("Genotype("):]
    if not re.fullmatch(r"[\w\s()\[\],'=]*", body):
        raise SystemExit(f"expected a genotype, found {text!r}")
    return eval(body, {"__builtins__": {}}, {"Genotype": Genotype, "range": range})


class ReLUConvBN(nn.Module):
    def __init__(self, cin, cout, kernel, stride, padding):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(), nn.Conv2d(cin, cout, kernel, stride, padding, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        return self.op(x)


class DilConv(nn.Module):
    def __init__(self, c, kernel, stride, padding, dilation):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False),
            nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x):
        return self.op(x)


class SepConv(nn.Module):
    """SepConv of DARTS, and with another width between, or the first half dilated, SharpSepConv of sharpDARTS."""

    def __init__(self, c, kernel, stride, padding, width=None, dilation=1):
        super().__init__()
        half = lambda cin, cout, s, d: [
            nn.ReLU(), nn.Conv2d(cin, cin, kernel, s, d * padding, d, groups=cin, bias=False),
            nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout)]
        width = width or c
        self.op = nn.Sequential(*half(c, width, stride, dilation), *half(width, c, 1, 1))

    def forward(self, x):
        return self.op(x)


class FactorizedReduce(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(cin, cout // 2, 1, 2, bias=False)
        self.conv_2 = nn.Conv2d(cin, cout - cout // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def along_both_axes(c, kernel, stride):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(c, c, (1, kernel), (1, stride), (0, kernel // 2), bias=False),
        nn.Conv2d(c, c, (kernel, 1), (stride, 1), (kernel // 2, 0), bias=False),
        nn.BatchNorm2d(c))


OPS = {
    "none": lambda c, s: Zero(s),
    "avg_pool_3x3": lambda c, s: nn.AvgPool2d(3, s, 1, count_include_pad=False),
    "max_pool_3x3": lambda c, s: nn.MaxPool2d(3, s, 1),
    "skip_connect": lambda c, s: nn.Identity() if s == 1 else FactorizedReduce(c, c),
    "sep_conv_3x3": lambda c, s: SepConv(c, 3, s, 1),
    "sep_conv_5x5": lambda c, s: SepConv(c, 5, s, 2),
    "sep_conv_7x7": lambda c, s: SepConv(c, 7, s, 3),
    "dil_conv_3x3": lambda c, s: DilConv(c, 3, s, 2, 2),
    "dil_conv_5x5": lambda c, s: DilConv(c, 5, s, 4, 2),
    "sharp_dil_conv_3x3": lambda c, s: SepConv(c, 3, s, 1, c, 2),
    "flood_conv_3x3": lambda c, s: SepConv(c, 3, s, 1, 4 * c),
    "dil_flood_conv_3x3": lambda c, s: SepConv(c, 3, s, 1, 4 * c, 2),
    "choke_conv_3x3": lambda c, s: SepConv(c, 3, s, 1, 32),
    "dil_choke_conv_3x3": lambda c, s: SepConv(c, 3, s, 1, 32, 2),
    "conv_7x1_1x7": lambda c, s: along_both_axes(c, 7, s),
    "conv_3x1_1x3": lambda c, s: along_both_axes(c, 3, s),
    "max_pool_5x5": lambda c, s: nn.MaxPool2d(5, s, 2),
    "max_pool_7x7": lambda c, s: nn.MaxPool2d(7, s, 3),
    "conv_1x1": lambda c, s: ReLUConvBN(c, c, 1, s, 0),
    "conv_3x3": lambda c, s: ReLUConvBN(c, c, 3, s, 1),
}


class Cell(nn.Module):
    def __init__(self, genotype, before, last, c, reduction, reduced):
        super().__init__()
        self.preprocess0 = (
            FactorizedReduce(before, c) if reduced else ReLUConvBN(before, c, 1, 1, 0))
        self.preprocess1 = ReLUConvBN(last, c, 1, 1, 0)
        edges = genotype.reduce if reduction else genotype.normal
        self.concat = list(genotype.reduce_concat if reduction else genotype.normal_concat)
        self.sources = [source for _, source in edges]
        self._ops = nn.ModuleList(
            OPS[op](c, 2 if reduction and source < 2 else 1) for op, source in edges)

    def forward(self, s0, s1):
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for i in range(0, len(self._ops), 2):
            pair = zip(self._ops[i:i + 2], self.sources[i:i + 2])
            states.append(sum(op(states[source]) for op, source in pair))
        return torch.cat([states[i] for i in self.concat], 1)


class DartsNetwork(nn.Module):
    def __init__(self, genotype, channels, cells, classes, imagenet):
        super().__init__()
        if imagenet:
            c = channels
            self.stem0 = nn.Sequential(
                nn.Conv2d(3, c // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(c // 2), nn.ReLU(),
                nn.Conv2d(c // 2, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c))
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(c, c, 3, 2, 1, bias=False), nn.BatchNorm2d(c))
            before = last = channels
        else:
            before = last = 3 * channels
            self.stem = nn.Sequential(
                nn.Conv2d(3, last, 3, padding=1, bias=False), nn.BatchNorm2d(last))
        self.imagenet = imagenet
        self.cells = nn.ModuleList()
        c, reduced = channels, imagenet
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            c = 2 * c if reduction else c
            cell = Cell(genotype, before, last, c, reduction, reduced)
            self.cells.append(cell)
            before, last, reduced = last, len(cell.concat) * c, reduction
        self.classifier = nn.Linear(last, classes)

    def forward(self, x):
        if self.imagenet:
            s0 = self.stem0(x)
            s1 = self.stem1(s0)
        else:
            s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.classifier(s1.mean((2, 3)))


class ResNetBlock(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.conv_a = ReLUConvBN(cin, cout, 3, 2, 1)
        self.conv_b = ReLUConvBN(cout, cout, 3, 1, 1)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(cin, cout, 1, bias=False))

    def forward(self, x):
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x):
        return self.op(x)


class InferCell(nn.Module):
    OPS = {
        "none": lambda c: Zero(1),
        "skip_connect": lambda c: nn.Identity(),
        "nor_conv_1x1": lambda c: ReLUConvBN(c, c, 1, 1, 0),
        "nor_conv_3x3": lambda c: ReLUConvBN(c, c, 3, 1, 1),
        "avg_pool_3x3": lambda c: Pooling(),
    }

    def __init__(self, genotype, c):
        super().__init__()
        self.nodes = [[int(source) for _, source in node] for node in genotype]
        self.layers = nn.ModuleList(self.OPS[op](c) for node in genotype for op, _ in node)

    def forward(self, x):
        states, layers = [x], iter(self.layers)
        for sources in self.nodes:
            states.append(sum(next(layers)(states[source]) for source in sources))
        return states[-1]


class TinyNetwork(nn.Module):
    def __init__(self, genotype, channels, cells, classes):
        super().__init__()
        c = channels
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(ResNetBlock(c, 2 * c))
                c *= 2
            self.cells.extend(InferCell(genotype, c) for _ in range(cells))
        self.lastact = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU())
        self.classifier = nn.Linear(c, classes)

    def forward(self, x):
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x)
        return self.classifier(self.lastact(x).mean((2, 3)))


def network(text, channels, cells, classes, imagenet=False):
    genotype = parse(text)
    if isinstance(genotype, list):
        return TinyNetwork(genotype, channels, cells, classes)
    return DartsNetwork(genotype, channels, cells, classes, imagenet)
