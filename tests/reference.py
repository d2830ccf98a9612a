"""Training as law 1 defines it, in one process and twenty lines, sharing no code with the trainer."""

import hashlib
import random

import numpy as np
import torch
from torch.utils.data import default_collate


def stream(*labels):
    digest = hashlib.blake2b("/".join(map(str, labels)).encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    torch.manual_seed(value), random.seed(value), np.random.seed(value & 0xFFFFFFFF)
    return value


def order(seed, epoch, samples):
    return np.argsort(np.random.Philox(key=stream(seed, "permutation", epoch)).random_raw(samples), kind="stable")


def tree(parts):
    """Aligned binary tree: the left half is the largest power of two below the number of parts."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << ((len(parts) - 1).bit_length() - 1)
    return [a + b for a, b in zip(tree(parts[:half]), tree(parts[half:]), strict=True)]


def train(job, steps):
    torch.set_num_threads(1)
    stream(job.seed, "model")
    model = job.model()
    optimizer = job.optimizer(model.parameters())
    scheduler = job.scheduler(optimizer) if job.scheduler else None
    data, size, cuts = job.data(), job.batch_size // job.micro_batches, job.micro_batches
    for step in range(steps):
        before = [b.clone() for b in model.buffers()]
        parts, counters = [], []
        for cut in range(cuts):
            positions = range(step * job.batch_size + cut * size, step * job.batch_size + (cut + 1) * size)
            orders = {e: order(job.seed, e, len(data)) for e in {p // len(data) for p in positions}}
            stream(job.seed, step, cut)
            x, y = default_collate([data[int(orders[p // len(data)][p % len(data)])] for p in positions])
            model.zero_grad()
            (job.loss(model(**x) if isinstance(x, dict) else model(x), y) / cuts).backward()
            changes = [b - a for a, b in zip(before, model.buffers(), strict=True) if b.is_floating_point()]
            parts.append([p.grad for p in model.parameters()] + changes)
            counters.append([b.clone() for b in model.buffers()])
            for buffer, start in zip(model.buffers(), before, strict=True):
                buffer.copy_(start)
        sums = iter(tree(parts))
        for parameter in model.parameters():
            parameter.grad = next(sums)
        for buffer, first in zip(model.buffers(), counters[0], strict=True):
            buffer.copy_(buffer + next(sums) / cuts if buffer.is_floating_point() else first)
        if job.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.clip_grad_norm)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return model


def weights_sha256(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    return digest.hexdigest()
