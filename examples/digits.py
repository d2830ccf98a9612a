"""A convolutional network with dropout and batch norm on scikit-learn's handwritten digits (8 x 8 pixels).

manyhands train examples/digits.py --workers 4
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from manyhands import Evaluation, Job


def digits(held_out: bool) -> TensorDataset:
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    chosen = torch.arange(len(images)) % 5 == 0
    chosen = chosen if held_out else ~chosen
    return TensorDataset(images[chosen], torch.tensor(raw.target)[chosen])


def model(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(2 * width * 16, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.argmax(-1) == target).float().mean()


def job(
    width: int = 32, batch_size: int = 128, micro_batches: int = 4, lr: float = 0.05, steps: int = 200, seed: int = 0,
    precision: str = "fp32",
) -> Job:  # fmt: skip
    return Job(
        model=lambda: model(width),
        data=lambda: digits(held_out=False),
        loss=F.cross_entropy,
        optimizer=lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=1e-4),
        scheduler=lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=steps + 1),
        batch_size=batch_size,
        micro_batches=micro_batches,
        steps=steps,
        seed=seed,
        precision=precision,
        evaluate=Evaluation(data=lambda: digits(held_out=True), metrics={"accuracy": accuracy}, every=50),
    )
