"""Which items does a user click? Two towers over tables of hashed ids, on clicks drawn from a known model.

manyhands train examples/recommend.py --workers 2 -- --rows 100000000

Users and items are drawn by a power law, and clicks from a logistic model of hidden tastes. So the best possible log
loss is known: the evaluation has it as `best_possible`, beside `loss`. The tables may exceed memory.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyhands import Evaluation, Job
from manyhands.tables import RowAdagrad, SparseTable


def hashed(ids: np.ndarray, salt: int) -> np.ndarray:
    """64 bits for every id (SplitMix64)."""
    x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(ids: np.ndarray, salt: int) -> np.ndarray:
    return (hashed(ids, salt) >> np.uint64(11)) / 2.0**53


class Clicks(torch.utils.data.Dataset):
    """Sample i is ((user's row, item's row), (click, its probability)), a function of i and the salt alone."""

    def __init__(self, samples: int, users: int, items: int, rows: int, salt: int):
        self.samples, self.users, self.items, self.rows, self.salt = samples, users, items, rows, salt

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, i: int) -> tuple:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple]:
        i = np.array(indices)
        user = (self.users ** uniform(i, self.salt)).astype(np.int64)  # the k-th is drawn 1 / k as often as the first
        item = (self.items ** uniform(i, self.salt + 1)).astype(np.int64)
        logit = uniform(user, 10) * 2 + uniform(item, 20) * 2 - 3
        for taste in range(2):  # each is -1..1 for users and for items; who is alike clicks
            logit += 4 * (2 * uniform(user, 11 + taste) - 1) * (2 * uniform(item, 21 + taste) - 1)
        chance = 1 / (1 + np.exp(-logit))
        click = uniform(i, self.salt + 2) < chance
        rows = np.stack([hashed(user, 1) % np.uint64(self.rows), hashed(item, 2) % np.uint64(self.rows)], 1)
        target = np.stack([click, chance], 1)
        return list(zip(torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(target).float(), strict=True))


class TwoTowers(nn.Module):
    def __init__(self, rows: int, width: int, lr: float):
        super().__init__()
        self.user = SparseTable(rows=rows, width=width, optimizer=RowAdagrad(lr=lr), std=0.1)
        self.item = SparseTable(rows=rows, width=width, optimizer=RowAdagrad(lr=lr), std=0.1)
        self.mlp = nn.Sequential(nn.Linear(3 * width, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, rows: Tensor) -> Tensor:
        user, item = self.user(rows[:, 0]), self.item(rows[:, 1])
        return self.mlp(torch.cat([user, item, user * item], 1)).squeeze(1)


def loss(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit.float(), target[:, 0])


def best_possible(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy(target[:, 1], target[:, 0])


def job(
    rows: int = 1_000_000, width: int = 16, users: int = 100_000, items: int = 10_000, samples: int = 2_000_000,
    batch_size: int = 2048, micro_batches: int = 8, steps: int = 1000, lr: float = 0.1, dense_lr: float = 2e-3,
    seed: int = 0, precision: str = "fp32",
) -> Job:  # fmt: skip
    return Job(
        model=lambda: TwoTowers(rows, width, lr),
        data=lambda: Clicks(samples, users, items, rows, salt=1000 + seed),
        loss=loss,
        optimizer=lambda params: torch.optim.Adam(params, lr=dense_lr),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        seed=seed,
        precision=precision,
        evaluate=Evaluation(
            data=lambda: Clicks(20_000, users, items, rows, salt=2000 + seed),
            metrics={"best_possible": best_possible},
            every=250,
            batch_size=2000,
        ),
    )
