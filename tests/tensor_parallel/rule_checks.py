"""Torch functions of a split tensor against the same functions of the whole one: values, gradients, random numbers."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from manyhands.errors import UserError
from manyhands.tensor_parallel import gathered, whole
from manyhands.tensor_parallel.exchange import Peers, take
from manyhands.tensor_parallel.split import Split, evenly
from manyhands.tensor_parallel.tensor import SplitTensor

SHAPE = (2, 6, 4, 5)
"""Batch, the split dimension, and two more."""
OTHER = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def written(x):
    target = torch.zeros(SHAPE)
    target[:, :, 1:3] = x[:, :, :2]
    return target


BY_SHARES = {
    "gelu": F.gelu,
    "arithmetic": lambda x: 2.0 / (x * x + 1) - x.exp().clamp(max=2) + (-x).sigmoid() ** 2,
    "with a whole tensor": lambda x: x * OTHER + OTHER[:, :, :1] - OTHER[0, 0],
    "comparison": lambda x: torch.where(x > 0.1, x, OTHER.abs()).masked_fill(OTHER > 0.5, 3.0),
    "in place": lambda x: (x * 1).add_(OTHER).mul_(2).relu_(),
    "types": lambda x: x.double().to(torch.float32).type_as(OTHER).float().contiguous(),
    "softmax": lambda x: F.softmax(x, dim=-1) + torch.softmax(x, 2) + x.log_softmax(0),
    "reductions": lambda x: x.mean(-1) + x.sum(dim=(2, 3), keepdim=True).amax(3) + x.var(3, unbiased=False),
    "reduction before": lambda x: x.sum(0) + x.mean(0, keepdim=True)[0],
    "layer norm": lambda x: F.layer_norm(x, (5,), OTHER[0, 0, 0], OTHER[0, 0, 1]),
    "rms norm": lambda x: F.rms_norm(x, (4, 5), OTHER[0, 0], 1e-6),
    "dropout": lambda x: F.dropout(F.dropout(x, 0.3), 0.5, training=False),
    "dropout of a transposed": lambda x: nn.Dropout(0.4)(x.permute(3, 1, 0, 2)),
    "views": lambda x: x.reshape(2, 6, 20).view(12, 4, 5).flatten(0, 1).view(2, 6, -1, 2),
    "flatten and back": lambda x: x.transpose(1, 2).flatten(2).unflatten(-1, (6, -1)).permute(0, 2, 1, 3),
    "dimensions": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).movedim(1, 0).mT.squeeze(),
    "index": lambda x: x[0, :, 1:, None, ::2] + x[..., 2:3][1, :, 1:, None],
    "cut": lambda x: torch.cat([p * i for i, p in enumerate(x.chunk(2, -1) + x.split([1, 4], dim=-1))], -1),
    "unbind": lambda x: sum(i * p for i, p in enumerate(x.unbind(2))) + sum(x.transpose(0, 2)).mean(1),
    "stack": lambda x: torch.stack([x, OTHER, x * x], dim=1),
    "cat along the split": lambda x: torch.cat([x, x * 2], 1).sum(2),
    "expand": lambda x: x.sum(2, keepdim=True).expand(-1, -1, 3, -1) + x[:, :, :3].expand(2, 6, 3, 5),
    "repeat": lambda x: x.repeat(1, 2, 1, 1)[0] * x.repeat_interleave(3, dim=2).repeat(1, 2, 1, 1).sum(0)[:, :4],
    "glu": lambda x: F.glu(torch.cat([x, x * 2], 1), 1) + F.glu(x, 2).repeat(1, 1, 2, 1),
    "repeat interleaved": lambda x: x.repeat_interleave(2, 1).sum(0),
    "matmul": lambda x: x @ x.transpose(-1, -2) @ OTHER,
    "matmul of rows": lambda x: x[:, :, 0] @ OTHER[0, 0].mT,
    "einsum": lambda x: torch.einsum("bhqd,bhkd->bhqk", x, OTHER) + torch.einsum("bhqd,kd->bhqk", x, OTHER[0, 0]),
    "linear": lambda x: F.linear(x, OTHER[0, 0], OTHER[0, 0, :, 0]),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1, is_causal=True),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=OTHER[:, :, :, :4], scale=0.3),
    "attention with dropout": lambda x: F.scaled_dot_product_attention(x, x, x, OTHER[0, 0, :, :4] < 1, 0.3),
    "attention of groups": lambda x: F.scaled_dot_product_attention(
        x.repeat_interleave(3, 1), x, x * x, dropout_p=0.2, enable_gqa=True
    ),
    "cross entropy": lambda x: F.cross_entropy(rows(x), TARGET),
    "cross entropy, options": lambda x: F.cross_entropy(rows(x), TARGET, ignore_index=2, label_smoothing=0.1),
    "cross entropy of rows": lambda x: F.cross_entropy(rows(x), TARGET, reduction="none") @ OTHER.flatten()[:40],
    "cross entropy, sum": lambda x: F.cross_entropy(rows(x) * 50, TARGET, reduction="sum") / 1000,
}
BY_GATHERING = {
    "softmax along the split": lambda x: x.softmax(1),
    "mean of all": lambda x: x.mean() + x.square().sum(1).mean(),
    "sort": lambda x: x.sort(1).values,
    "tensor index": lambda x: x[:, torch.tensor([4, 0, 1])],
    "int index": lambda x: x[:, 2],
    "part of a share": lambda x: x[:, 1:5],
    "cumsum": lambda x: x.cumsum(1),
    "random": lambda x: x * torch.rand_like(x),
    "channel dropout": lambda x: F.dropout2d(x, 0.4),
    "whole in place": lambda x: OTHER.clone().mul_(x),
    "written into": written,
    "weighted cross entropy": lambda x: F.cross_entropy(rows(x), TARGET, weight=OTHER[0, :, 0, 0].abs().detach()),
    "probabilities as targets": lambda x: F.cross_entropy(rows(x), rows(OTHER).softmax(1)),
}
TARGET = torch.arange(40) * 7 % 6


def rows(x):
    return x.movedim(1, -1).flatten(0, 2)


def same_as_whole(name):
    """Largest differences (value, gradient of the tensor, gradient of a whole operand) and functions that gathered."""
    function = {**BY_SHARES, **BY_GATHERING}[name]
    peers = Peers(dist.group.WORLD)
    results = []
    for split in (None, evenly(6, dist.get_world_size())):
        torch.manual_seed(5)
        x = torch.randn(SHAPE, requires_grad=True)
        OTHER.requires_grad_(True).grad = None
        gathered.clear()
        given = x if split is None else as_split(x, 1, split, peers)
        result = whole(function(given))
        state = torch.get_rng_state()
        scale = torch.arange(result.numel()).reshape(result.shape).cos()
        (result * scale).sum().backward()
        mine = x.grad if split is None else peers.join(given.local.grad, 1, split)
        results.append((result.detach(), mine, torch.zeros(()) if OTHER.grad is None else OTHER.grad, state))
    assert torch.equal(results[0][3], results[1][3]), "random numbers are used up differently"
    differences = []
    for one, other in zip(results[0][:3], results[1][:3], strict=True):
        assert one.shape == other.shape
        differences.append(float((one - other).abs().max()))
    return differences, dict(gathered)


def as_split(x, axis, split, peers):
    local = take(x.detach(), axis, split, peers.rank).clone().requires_grad_()
    return SplitTensor(local, axis, split, peers)


def all_rules():
    return {name: same_as_whole(name) for name in (*BY_SHARES, *BY_GATHERING)}


def facts():
    """What a split tensor says of itself is what the whole one says."""
    peers = Peers(dist.group.WORLD)
    x = torch.randn(2, 12, requires_grad=True)
    gathered.clear()
    split = as_split(x, 1, Split(evenly(3, peers.degree).counts, (3, 1)), peers)
    assert isinstance(split, torch.Tensor)
    assert split.shape == (2, 12) and split.size(1) == 12 and split.ndim == split.dim() == 2 and len(split) == 2
    assert split.dtype == torch.float32 and split.device.type == "cpu" and split.requires_grad and split.is_leaf
    assert split[:, :9].shape == (2, 9) and not gathered
    assert torch.equal(split.detach().whole(), x.detach()) if peers.rank == 0 else split.detach().whole() is not None
    return repr(split)


def refusals():
    """What cannot be done to a split tensor is said in words."""
    peers = Peers(dist.group.WORLD)
    split = as_split(torch.zeros(2, 4), 1, evenly(4, peers.degree), peers)
    messages = []
    for wrong in (
        lambda: split.detach().cumsum_(1),
        lambda: split.detach().__setitem__(0, 1.0),
        lambda: split.register_hook(print),
        lambda: Custom.apply(split) + 1,
    ):
        try:
            wrong()
        except UserError as error:
            messages.append(str(error))
    return messages


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
