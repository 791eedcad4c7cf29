"""Recomputes the logits of `ndarts evaluate --logits` in float64 PyTorch, and in onnxruntime.

    ndarts evaluate RUN --logits l.safetensors --export w.safetensors
    ndarts evaluate RUN --export w.onnx
    python tests/torch/check_derived.py w.safetensors l.safetensors --channels 8 --cells 3 [--onnx w.onnx]

The weights are loaded strictly: every name and shape is the official code's. Either check is made
where its package is installed; none of both is an error."""

import argparse
import importlib.util
import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file


def report(what, found, expected, bound):
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    good = bool(error < bound)
    print(f"{'ok  ' if good else 'FAIL'} {what}: relative error {error:.2e} (bound {bound:.0e})")
    return good


def by_torch(arguments, images):
    import torch
    from safetensors.torch import load_file as load_torch

    from derived import network

    with safe_open(arguments.weights, "np") as file:
        genotype = file.metadata()["genotype"]
    state = load_torch(arguments.weights)
    classes = state["classifier.bias"].numel()
    model = network(genotype, arguments.channels, arguments.cells, classes, arguments.imagenet)
    state = {k: v for k, v in state.items() if not k.startswith("auxiliary_head.")}
    model.load_state_dict(state, strict=True)
    model.double().eval()
    with torch.no_grad():
        return model(torch.from_numpy(images).double()).numpy()


def by_onnxruntime(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": images})[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("logits")
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--imagenet", action="store_true")
    parser.add_argument("--onnx")
    arguments = parser.parse_args()
    found = load_file(arguments.logits)
    checks = []
    if importlib.util.find_spec("torch"):
        expected = by_torch(arguments, found["images"])
        checks.append(report("logits against PyTorch", found["logits"], expected, 1e-4))
    if arguments.onnx and importlib.util.find_spec("onnxruntime"):
        run = by_onnxruntime(arguments.onnx, found["images"])
        checks.append(report("onnxruntime against ours", run, found["logits"], 1e-4))
    if not checks:
        sys.exit("neither torch nor onnxruntime is installed: nothing was checked")
    sys.exit(0 if all(checks) else 1)


if __name__ == "__main__":
    main()
