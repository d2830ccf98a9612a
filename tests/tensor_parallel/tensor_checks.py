"""What the members of a gang do: train a model split and on one worker, and compare."""

from typing import NamedTuple

import tensor_models
import torch
import torch.distributed as dist
from torch.distributed import DeviceMesh

from manyhands.errors import UserError
from manyhands.tensor_parallel import (
    apply,
    context,
    derive,
    gather,
    gathered,
    gradient,
    scatter_,
    squared_norm_share,
    whole,
)

LR = 1e-3


class Trained(NamedTuple):
    losses: list
    gradients: dict
    """Whole, of the first step, and their norm."""
    noise: dict
    """Elements whose gradient was hardly above rounding in some step: there AdamW steps by the sign of an error."""
    random: torch.Tensor
    """The state of the generator after the last forward."""
    weights: dict
    output: torch.Tensor
    """In evaluation, before training."""


def mesh():
    return DeviceMesh("cpu", list(range(dist.get_world_size())), mesh_dim_names=("tp",))


def call(model, inputs):
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    model, inputs, loss = getattr(tensor_models, name)()
    return model.to(dtype), lambda step: as_type(inputs(step), dtype), loss


def as_type(inputs, dtype):
    return inputs if isinstance(inputs, dict) else tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def train(model, inputs, loss, steps, split):
    model.eval()
    with torch.no_grad():
        output = call(model, inputs(0))
    output = whole(output if torch.is_tensor(output) else output.logits)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    losses, gradients, noise = [], {}, {}
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for step in range(steps):
        torch.manual_seed(1000 + step)
        with context():
            value = loss(call(model, inputs(step)), step)
            random = torch.get_rng_state()
            value.backward()
        losses.append(float(value.detach()))
        whole_gradients = {n: gather(p, gradient(p)) for n, p in named.items() if p.grad is not None}
        for n, g in whole_gradients.items():
            noise[n] = noise.get(n, False) | ((g != 0) & (g.abs() < 1e-7))
        gradients = gradients or {**whole_gradients, "norm": norm(model, split)}
        optimizer.step()
        optimizer.zero_grad()
    weights = {n: gather(p) for n, p in model.state_dict(keep_vars=True).items()}
    return Trained(losses, gradients, noise, random, weights, output)


def norm(model, split):
    """Of the whole gradient, as a gang computes it."""
    total = sum(squared_norm_share(p) for p in model.parameters()).reshape(1)
    if split:
        dist.all_reduce(total)
    return total.sqrt()


def train_split(name, dtype, steps=3, **options):
    model, inputs, loss = build(name, dtype)
    plan = derive(model, lambda: call(model, inputs(0)), dist.get_world_size(), **options)
    apply(model, plan, mesh())
    gathered.clear()
    trained = train(model, inputs, loss, steps, split=True)
    return plan, trained


def compare(name, dtype="float32", options=None):
    """Largest differences of a split model from one worker's, and how it was split."""
    dtype = getattr(torch, dtype)
    plan, split = train_split(name, dtype, **(options or {}))
    found = {"styles": {m.module: str(m.style) for m in plan.modules}, "gathered": dict(gathered)}
    if dist.get_rank() == 0:
        one = train(*build(name, dtype), steps=3, split=False)
        assert torch.equal(split.random, one.random), "random numbers are used up differently"
        assert split.gradients.keys() == one.gradients.keys()
        assert split.weights.keys() == one.weights.keys()
        found["loss"] = max(abs(a - b) for a, b in zip(split.losses, one.losses, strict=True))
        found["gradient"] = max(far(split.gradients[n], g) for n, g in one.gradients.items())
        sure = {n: ~one.noise.get(n, torch.tensor(False)) | (dtype == torch.float64) for n in one.weights}
        sure = {n: mask.expand(one.weights[n].shape) for n, mask in sure.items()}
        found["weight"] = max(far(w[sure[n]], split.weights[n][sure[n]]) for n, w in one.weights.items())
        found["noise"] = sum(int((~mask).sum()) for mask in sure.values()) / sum(mask.numel() for mask in sure.values())
        found["output"] = far(split.output, one.output)
    dist.barrier()
    return found


def far(one, other):
    assert one.shape == other.shape
    return float((one - other).abs().max()) if one.numel() else 0.0


def plan_text(name):
    model, inputs, _ = build(name)
    return str(derive(model, lambda: call(model, inputs(0)), 2))


def tied_by_torch():
    """The same split of the tied GPT's embedding and head by torch's own styles, against one worker."""
    from torch.distributed.tensor import DTensor, Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model, inputs, loss = build("tied_gpt")
    embedding = RowwiseParallel(input_layouts=Replicate())
    parallelize_module(model, mesh(), {"token": embedding, "head": ColwiseParallel(output_layouts=Replicate())})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, foreach=False)
    for step in range(3):
        torch.manual_seed(1000 + step)
        loss(call(model, inputs(step)), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert isinstance(model.head.weight, DTensor)
    head = model.head.weight.full_tensor().detach()
    one = train(*build("tied_gpt"), steps=3, split=False)
    return {"tied": model.head.weight is model.token.weight, "weight": far(head, one.weights["head.weight"])}


def refusals():
    """What cannot be applied, or was not foreseen, is said in words."""
    model, inputs, _ = build("tied_gpt")
    model.spare = torch.nn.Embedding.from_pretrained(model.token.weight, freeze=False)
    model.spare.weight = model.token.weight
    messages = []
    plan = derive(model, lambda: call(model, inputs(0)), dist.get_world_size())
    for wrong in (
        lambda: apply(model, derive(model, lambda: call(model, inputs(0)), 3), mesh()),
        lambda: (apply(model, plan, mesh()), model.spare(torch.tensor([1]))),
    ):
        try:
            wrong()
        except UserError as error:
            messages.append(str(error))
    return messages


def round_trip(name):
    """Whole values put into a split model come back."""
    model, inputs, _ = build(name)
    apply(model, derive(model, lambda: call(model, inputs(0)), dist.get_world_size()), mesh())
    torch.manual_seed(7)
    wanted = {n: torch.randn_like(gather(p)) for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        scatter_(p, wanted[n])
    return all(torch.equal(gather(p), wanted[n]) for n, p in model.named_parameters())
