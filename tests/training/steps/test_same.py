"""What has to be the same on all workers, told with each step."""

import pytest
import torch
from torch import nn

from manyhands.errors import UserError
from manyhands.training.steps import same


def test_the_same_rates_are_no_news():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    same.check([same.rates(optimizer)] * 3)
    same.check([]), same.check([{}, {}])


def test_another_rate_is_named_with_its_worker():
    with pytest.raises(UserError, match=r"workers 0 and 2 .*\(0\.1, 0\.2 and 0\.1, 0\.25\)"):
        same.check([{"rates": [0.1, 0.2]}, {"rates": [0.1, 0.2]}, {"rates": [0.1, 0.25]}])


def test_only_workers_of_one_stage_gather_together():
    same.check([same.gathers({0: "a"}), same.gathers({1: "b"}), same.gathers({0: "a"}), same.gathers({1: "b"})])
    with pytest.raises(UserError, match="workers 1 and 3 have used different layers: replicas"):
        same.check([same.gathers({0: "a"}), same.gathers({1: "b"}), same.gathers({0: "a"}), same.gathers({1: "c"})])
