#!/usr/bin/env python3
"""Times PyTorch eager on the weight step that `ndarts bench --what step` times.

A step: forward, backward, gradient clipping at norm 5, SGD with momentum 0.9 and weight decay 3e-4.
Random 32×32 images in float32, NCHW and channels-last, one warm-up step and the median of `--iters`
more. Prints one line of JSON a layout, with the keys of `ndarts bench --json` and `layout`. Batch
norms keep no running statistics, which is a little less work than the official code does.

Peak memory is that of a process, so each layout runs in one of its own. Needs: torch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from supernets import ARCHITECTURE, NETWORKS, Drawn, Stored


def measure(options, layout):
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = NETWORKS[options.space]
    sizes = (options.channels, options.cells, options.classes)
    memory = torch.channels_last if layout == "channels-last" else torch.contiguous_format
    images = torch.randn(options.batch, 3, 32, 32).contiguous(memory_format=memory)
    labels = torch.randint(options.classes, (options.batch,))

    drawn = Drawn(0, torch.float32)
    with torch.no_grad():
        network(drawn, images[:2], *sizes)
    for name, tensor in drawn.tensors.items():
        if tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=memory)
        drawn.tensors[name] = tensor.requires_grad_(name not in ARCHITECTURE[options.space])
    weights = [x for x in drawn.tensors.values() if x.requires_grad]
    optimiser = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4)
    get = Stored(drawn.tensors)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(network(get, images, *sizes), labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, 5.0)
        optimiser.step()

    step()
    seconds = []
    for _ in range(options.iters):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "what": "step", "space": options.space, "channels": options.channels,
        "cells": options.cells, "batch": options.batch, "device": "cpu",
        "median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "framework": f"torch {torch.__version__}", "layout": layout, "threads": options.threads,
        "weights": sum(x.numel() for x in weights),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", choices=tuple(NETWORKS), default="darts")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8, help="cells, or cells a stage (nb201)")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iters", type=int, default=3, help="timed steps")
    parser.add_argument("--layout", choices=("nchw", "channels-last", "both"), default="both")
    options = parser.parse_args()
    if options.layout != "both":
        print(json.dumps(measure(options, options.layout)), flush=True)
        return
    for layout in ("nchw", "channels-last"):
        subprocess.run([sys.executable, *sys.argv, "--layout", layout], check=True)


if __name__ == "__main__":
    main()
