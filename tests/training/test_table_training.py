"""Tables in a training: the rows and the weights of one worker, wherever the rows are; and where they cannot be."""

import copy

import pytest
import torch
from gangs import trained
from torch import nn
from torch.utils.data import TensorDataset

from manyhands import Job, Plan, Trainer, UserError
from manyhands.tables import RowAdagrad, RowAdam, SparseTable, TableFile, tables_of

ROWS = 500


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = SparseTable(rows=ROWS, width=4, optimizer=RowAdagrad(lr=0.1))
        self.second = SparseTable(rows=ROWS, width=3, optimizer=RowAdam(lr=0.05, betas=(0.9, 0.99), eps=1e-8))
        self.head = nn.Linear(7, 1)

    def forward(self, ids):
        return self.head(torch.cat([self.first(ids[:, :2]).mean(1), self.second(ids[:, 2])], 1)).squeeze(1)


def data():
    drawn = torch.Generator().manual_seed(1)
    ids = (ROWS * torch.rand(120, 3, generator=drawn) ** 3).long()
    return TensorDataset(ids, torch.randn(120, generator=drawn))


JOB = Job(
    model=Net,
    data=data,
    loss=nn.functional.mse_loss,
    optimizer=lambda params: torch.optim.Adam(params, lr=0.01),
    batch_size=24,
    micro_batches=6,
    steps=12,
    clip_grad_norm=1.0,
)


def digests(folder) -> dict:
    found = {}
    for name, table in tables_of(Trainer(JOB, device="cpu").model).items():
        file = TableFile(folder / f"{name}.table", table.spec)
        found[name] = file.digest()
        file.close()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ((state, steps),) = trained(JOB, Plan(), tables=folder)
    return state["model"], steps, digests(folder)


@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (1, 2), (2, 1), (3, 2), (4, 3)])
def test_rows_on_servers_are_those_of_one_worker(workers, servers, alone, tmp_path):
    model, steps, rows = alone
    plan = Plan(workers=workers, sync=f"server,servers={servers}")
    results = trained(JOB, plan, tables=tmp_path)
    assert [step[:-1] for step in results[0][1]] == [step[:-1] for step in steps]
    assert all(torch.equal(results[0][0]["model"][name], value) for name, value in model.items())
    assert digests(tmp_path) == rows


def test_a_state_goes_on_with_the_rows_of_its_step(alone, tmp_path):
    """Though the files have gone further; and with other servers."""
    snapshots = []

    def ask(trainer):
        state = copy.deepcopy(trainer.capture())
        if trainer.rank == 0:
            snapshots.append(state)
        for _ in range(3):
            trainer.train_step()

    trained(JOB, Plan(workers=2, sync="server,servers=3"), steps=5, ask=ask, tables=tmp_path)
    (state,) = snapshots
    assert state["step"] == 5
    trained(JOB, Plan(workers=3, sync="server,servers=2"), state, tables=tmp_path)
    assert digests(tmp_path) == alone[2]


def test_where_there_is_no_place_for_rows(tmp_path):
    for sync, words in [("allreduce", "--sync server"), ("local", "--sync server")]:
        with pytest.raises(UserError, match=words):
            trained(JOB, Plan(workers=2, sync=sync), tables=tmp_path)
    ((state, _),) = trained(JOB, Plan(), steps=3, tables=tmp_path)
    with pytest.raises(UserError, match="none after step 7"):
        trained(JOB, Plan(), state | {"step": 7}, tables=tmp_path)
    with pytest.raises(UserError, match="is gone"):
        trained(JOB, Plan(), state, tables=tmp_path / "other")
    with pytest.raises(UserError, match=r"tables .* pp=2"):
        Trainer(JOB, Plan(layout="pp=2"), device="cpu")
