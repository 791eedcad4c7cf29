#!/usr/bin/env python3
"""Recomputes an `ndarts probe` file in float64 PyTorch, from the file alone.

    check_probe.py FILE.safetensors
    check_probe.py --self-test [--dtype float32]

Prints, for each quantity, the norm-wise relative error over all its tensors together and that of
its worst tensor (tensors whose true norm is below 1e-6 of the joint norm do not count). Exit
status 1 if any of the two is above 1e-3, or 1e-4 for losses and logits.

relu has no derivative at 0, and an input within a few float32 roundings of it may honestly fall on
either side: one such element in a small batch moves a product by 1e-3 in one tensor. Where a
quantity is too far, such elements are taken on their other side, one by one, and each that brings
the file closer is named; the file must then be within tolerance at all quantities.

`--self-test` writes probe files of all spaces and K = 0, 1, 3 from random weights and checks them,
then damages one quantity at a time and expects a failure. With `--dtype float32` the file's numbers
are computed in float32: the errors shown are what an honest float32 engine has.

Needs: torch, safetensors, numpy.
"""

import argparse
import os
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from supernets import ARCHITECTURE, NETWORKS, Drawn, Stored

TOLERANCE = {"loss_train": 1e-4, "loss_val": 1e-4, "logits_train": 1e-4}
METADATA = ("space", "channels", "cells", "classes", "neumann_terms", "gamma")
WHOLE = ("input_train", "target_train", "input_val", "target_val",
         "loss_train", "loss_val", "logits_train")
KINDS = ("weights", "arch", "grad", "grad_arch", "grad_val", "grad_val_arch",
         "vector", "hvp", "mixed", "hypergrad")


# How near its kink an input of relu counts as undecided, in standard deviations of that activation:
# a few roundings of float32.
UNDECIDED = 2e-6


class Watched(Stored):
    """Lists the undecided inputs of relu as (distance, number of the relu, element).

    Those in `flipped` are taken on the other side of the kink.
    """

    def __init__(self, tensors, flipped):
        super().__init__(tensors)
        self.flipped, self.undecided, self.relus = flipped, [], 0

    def relu(self, x):
        flat = x.detach().reshape(-1)
        distance = flat.abs() / flat.std()
        near = (distance < UNDECIDED).nonzero().reshape(-1).tolist()
        self.undecided += [(float(distance[i]), self.relus, i) for i in near]
        active = (x > 0).to(x.dtype)
        for _, relu, element in self.flipped:
            if relu == self.relus:
                active.view(-1)[element] = 1 - active.view(-1)[element]
        self.relus += 1
        return x * active


def recompute(problem, dtype=torch.float64, flipped=()):
    """All derived quantities of a problem: kind → name → tensor (name "" for whole tensors).

    Also ‖v_k‖, and the inputs of relu that are undecided in float32. `flipped` are some of those,
    to be taken on the other side of the kink.
    """
    settings = problem["settings"]
    network = NETWORKS[settings["space"]]
    sizes = (settings["channels"], settings["cells"], settings["classes"])
    weights = {k: v.to(dtype).requires_grad_() for k, v in problem["weights"].items()}
    arch = {k: v.to(dtype).requires_grad_() for k, v in problem["arch"].items()}
    omega, alpha = list(weights.values()), list(arch.values())

    undecided = []

    def run(part):
        images, labels = problem[f"input_{part}"], problem[f"target_{part}"]
        get = Watched({**weights, **arch}, [at for where, at in flipped if where == part])
        logits = network(get, images.to(dtype), *sizes)
        unused = get.tensors.keys() - get.asked
        if unused:
            raise ValueError(f"the network does not know {sorted(unused)[:3]} … of the file")
        undecided.extend((part, at) for at in get.undecided)
        return F.cross_entropy(logits, labels), logits

    def named(values):
        omegas = dict(zip(weights, (x.detach() for x in values[:len(omega)])))
        alphas = dict(zip(arch, (x.detach() for x in values[len(omega):])))
        return omegas, alphas

    result = {}
    loss, _ = run("val")
    result["loss_val"] = {"": loss.detach()}
    result["grad_val"], result["grad_val_arch"] = named(torch.autograd.grad(loss, omega + alpha))

    loss, logits = run("train")
    result["loss_train"], result["logits_train"] = {"": loss.detach()}, {"": logits.detach()}
    gradient = torch.autograd.grad(loss, omega + alpha, create_graph=True)
    result["grad"], result["grad_arch"] = named(gradient)

    def product(direction):
        """(H·v, ∂²L1/∂α∂ω·v) = ∇_(ω,α) (∂L1/∂ω · v), v held constant."""
        along = sum((g * direction[k]).sum() for k, g in zip(weights, gradient))
        return named(torch.autograd.grad(along, omega + alpha, retain_graph=True))

    vector = {k: v.to(dtype) for k, v in problem["vector"].items()}
    result["hvp"], result["mixed"] = product(vector)

    # v_k = v_{k-1} − γ H v_{k-1},  p = Σ v_k,  dα = ∂L2/∂α − γ (∂²L1/∂α∂ω) p
    gamma, term = settings["gamma"], result["grad_val"]
    total, norms = dict(term), [joint_norm(term)]
    for _ in range(settings["neumann_terms"]):
        curved, _ = product(term)
        term = {k: v - gamma * curved[k] for k, v in term.items()}
        total = {k: v + term[k] for k, v in total.items()}
        norms.append(joint_norm(term))
    _, correction = product(total)
    result["hypergrad"] = {k: g - gamma * correction[k] for k, g in result["grad_val_arch"].items()}
    return result, norms, undecided


def joint_norm(tensors):
    return sum(float(x.double().square().sum()) for x in tensors.values()) ** 0.5


def read(path):
    """The problem and the answers in a file; says in one line what is missing or misshapen."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for key in METADATA:
        if key not in metadata:
            raise ValueError(f"{path}: metadata should hold {METADATA}, `{key}` is missing")
    settings = {key: int(metadata[key]) for key in ("channels", "cells", "classes", "neumann_terms")}
    settings["space"], settings["gamma"] = metadata["space"], float(metadata["gamma"])
    if settings["space"] not in NETWORKS:
        raise ValueError(f"{path}: `space` should be one of {list(NETWORKS)}, "
                         f"found `{settings['space']}`")
    for name in WHOLE:
        if name not in tensors:
            raise ValueError(f"{path}: tensor `{name}` is missing")
    content = {name: tensors.pop(name) for name in WHOLE}
    content.update({kind: {} for kind in KINDS}, settings=settings)
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind not in KINDS:
            raise ValueError(f"{path}: unexpected tensor `{name}`")
        if value.dtype != torch.float32:
            raise ValueError(f"{path}: `{name}` should be float32, found {value.dtype}")
        content[kind][rest] = value
    for name in ("target_train", "target_val"):
        if content[name].dtype != torch.int64:
            raise ValueError(f"{path}: `{name}` should be int64, found {content[name].dtype}")
    if set(content["arch"]) != set(ARCHITECTURE[settings["space"]]):
        raise ValueError(f"{path}: arch tensors should be {ARCHITECTURE[settings['space']]}, "
                         f"found {sorted(content['arch'])}")
    if set(content["vector"]) != set(content["weights"]):
        raise ValueError(f"{path}: `vector.*` should name the tensors of `weights.*`")
    return content


def compare(found, expected, kind):
    """(joint error, worst error, worst name) of a kind; both are dictionaries of tensors."""
    if found.keys() != expected.keys():
        raise ValueError(f"`{kind}.*` should hold {len(expected)} tensors named as the network's, "
                         f"differs at {sorted(found.keys() ^ expected.keys())[:3]}")
    size = joint_norm(expected)
    squares, worst, worst_name = 0.0, 0.0, ""
    for name, truth in expected.items():
        value = found[name].double()
        if value.numel() != truth.numel() or (truth.dim() and value.shape != truth.shape):
            raise ValueError(f"`{kind}.{name}` should have shape {list(truth.shape)}, "
                             f"found {list(value.shape)}")
        error = float((value.reshape(truth.shape) - truth).norm())
        error = float("inf") if error != error else error
        squares += error * error
        norm = float(truth.norm())
        if norm >= 1e-6 * size and norm > 0 and error / norm > worst:
            worst, worst_name = error / norm, name
    joint = squares ** 0.5 / size if size else squares ** 0.5
    return joint, worst, worst_name


def distances(content, expected):
    """kind → (joint error, worst error, worst name, whether that is too far)."""
    found = {}
    for kind, tensors in expected.items():
        values = content[kind] if kind in KINDS else {"": content[kind]}
        joint, worst, name = compare(values, tensors, kind)
        found[kind] = joint, worst, name, not max(joint, worst) <= TOLERANCE.get(kind, 1e-3)
    return found


def decide(content, truth, show):
    """The truth with those undecided inputs of relu flipped that bring the file closer."""
    expected, norms, undecided = truth
    flipped, errors = [], distances(content, expected)
    for candidate in sorted(undecided, key=lambda at: at[1]):
        if not any(bad for *_, bad in errors.values()):
            break
        other = recompute(content, flipped=[*flipped, candidate])
        closer = distances(content, other[0])
        if sum(e[0] for e in closer.values()) < sum(e[0] for e in errors.values()):
            part, (distance, relu, element) = candidate
            show(f"{part} batch, relu {relu}, element {element}: {distance:.1e} deviations from its "
                 "kink, taken on the other side")
            flipped.append(candidate)
            errors, expected, norms = closer, other[0], other[1]
    return expected, norms, errors


def check(path, truth=None, quiet=False):
    """True if every number of the file is within tolerance. `truth` spares the recomputation."""
    content = read(path)
    show = (lambda *_: None) if quiet else print
    show(f"{path}: {content['settings']}")
    expected, norms, errors = decide(content, truth or recompute(content), show)
    show(f"{'quantity':14} {'joint':>10} {'worst':>10}  worst tensor")
    for kind, (joint, worst, name, bad) in errors.items():
        show(f"{kind:14} {joint:10.2e} {worst:10.2e}  {name}{'   <-- too far' if bad else ''}")
    # Where γ is small the correction hides behind ∂L2/∂α, so it is shown by itself; the difference
    # of two float32 numbers is too noisy to judge by.
    corrections = [{k: answer[k].double() - base[k].double() for k in base} for answer, base in (
        (content["hypergrad"], content["grad_val_arch"]),
        (expected["hypergrad"], expected["grad_val_arch"]))]
    ratio = joint_norm(corrections[1]) / joint_norm(expected["grad_val_arch"])
    joint, worst, name = compare(*corrections, "hypergrad")
    show(f"{'  correction':14} {joint:10.2e} {worst:10.2e}  {name} (not judged; "
         f"{ratio:.2g} of ∂L2/∂α)")
    show("‖v_k‖ " + " ".join(f"{x:.4g}" for x in norms))
    if any(b > a for a, b in zip(norms, norms[1:])):
        show("‖v_k‖ grows: a guarded series stops there and its hypergradient differs by design")
    return not any(bad for *_, bad in errors.values())


def make_problem(space, terms, seed):
    """A random problem, its inputs rounded to float32 as a file holds them."""
    sizes = {"channels": 4, "cells": 1 if space == "nb201" else 3, "classes": 10}
    settings = {"space": space, "neumann_terms": terms, "gamma": 0.05, **sizes}
    generator = torch.Generator().manual_seed(seed)
    problem = {"settings": settings}
    for part in ("train", "val"):
        problem[f"input_{part}"] = torch.randn(4, 3, 16, 16, generator=generator)
        problem[f"target_{part}"] = torch.randint(10, (4,), generator=generator)
    drawn = Drawn(seed, torch.float32)
    NETWORKS[space](drawn, problem["input_train"], *sizes.values())
    problem["arch"] = {k: drawn.tensors.pop(k) for k in ARCHITECTURE[space]}
    problem["weights"] = drawn.tensors
    problem["vector"] = {k: torch.randn(v.shape, generator=generator)
                         for k, v in drawn.tensors.items()}
    return problem


def write(path, problem, answers):
    tensors = {}
    for kind, value in {**problem, **answers}.items():
        if kind == "settings":
            continue
        parts = value if isinstance(value, dict) else {"": value}
        for name, x in parts.items():
            full = f"{kind}.{name}" if name else kind
            tensors[full] = (x if x.dtype == torch.int64 else x.float()).contiguous()
    save_file(tensors, path, {k: str(v) for k, v in problem["settings"].items()})


def self_test(dtype):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "probe.safetensors")
        for seed, (space, terms) in enumerate((s, k) for s in NETWORKS for k in (0, 1, 3)):
            problem = make_problem(space, terms, seed)
            answers, *_ = recompute(problem, dtype)
            write(path, problem, answers)
            if not check(path):
                return False
        # Damage: one tensor of one quantity off by two tenths of a per cent and more.
        truth = recompute(problem)
        for kind in answers:
            damaged = {k: dict(v) for k, v in answers.items()}
            name = max(damaged[kind], key=lambda n: float(damaged[kind][n].norm()))
            damaged[kind][name] = damaged[kind][name] * 1.003
            write(path, problem, damaged)
            if check(path, truth, quiet=True):
                print(f"a damaged {kind}.{name} went unnoticed")
                return False
        print(f"self-test passed; {len(answers)} kinds of damage were noticed")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="probe files")
    parser.add_argument("--self-test", action="store_true", help="check files made here")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64",
                        help="type in which --self-test computes its files")
    arguments = parser.parse_args()
    if bool(arguments.files) == arguments.self_test:
        parser.error("give either probe files or --self-test")
    try:
        if arguments.self_test:
            good = self_test(getattr(torch, arguments.dtype))
        else:
            good = all([check(path) for path in arguments.files])
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error.args[0] if error.args else error}", file=sys.stderr)
        good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
