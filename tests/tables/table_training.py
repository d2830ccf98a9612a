"""Training as law 1 defines it, with tables: in one process, a few lines, by any number of pretended workers."""

from __future__ import annotations

import importlib.util

import torch
from reference import tree
from support import EXAMPLES

from manyhands.collective import assign_blocks, fold, leaves
from manyhands.tables import RowSum, combine, tables_of
from manyhands.training.batch import fetch
from manyhands.training.cursor import sample_indices
from manyhands.training.seeds import seed_everything, stream_seed

CPU = torch.device("cpu")


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(job) -> torch.nn.Module:
    seed_everything(stream_seed(job.seed, "model"), CPU)
    return job.model()


def train(job, model, store, workers: int = 1, start: int = 0):
    """Every step's loss."""
    tables, optimizer, data = tables_of(model), job.optimizer(model.parameters()), job.data()
    count = job.micro_batches
    for step in range(start, job.steps):
        blocks = assign_blocks(count, workers)
        pieces = {name: [] for name in tables}
        dense, losses = [], []
        for block in blocks:
            sums = {name: RowSum(fold(leaves(block.start, block.stop), count)) for name in tables}
            for leaf, index in enumerate(range(block.start, block.stop)):
                first = step * job.batch_size + index * job.micro_batch_size
                inputs, targets = fetch(data, sample_indices(job.seed, len(data), first, job.micro_batch_size), CPU)
                optimizer.zero_grad()
                loss = job.loss(model(inputs), targets)
                (loss / count).backward()
                dense.append([parameter.grad for parameter in model.parameters()])
                losses.append(float(loss.detach()))
                for name, table in tables.items():
                    sums[name].push(leaf, table.take())
            for name in tables:
                pieces[name].append(sums[name].pieces())
        nodes = [block.pieces(count) for block in blocks]
        for parameter, gradient in zip(model.parameters(), tree(dense), strict=True):
            parameter.grad = gradient
        optimizer.step()
        store.step({name: combine(nodes, pieces[name], count) for name in tables})
        yield sum(losses) / count


def evaluate(job, model) -> dict[str, float]:
    data = job.evaluate.data()
    metrics = {"loss": job.loss, **job.evaluate.metrics}
    totals = dict.fromkeys(metrics, 0.0)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(data), 2000):
            batch = list(range(start, min(start + 2000, len(data))))
            inputs, targets = fetch(data, batch, CPU)
            output = model(inputs)
            for name, metric in metrics.items():
                totals[name] += float(metric(output, targets)) * len(batch) / len(data)
    model.train()
    return totals
