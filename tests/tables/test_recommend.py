"""The example: it approaches the best possible loss, and its tables belong to the job."""

import dataclasses

import pytest
import torch
from table_training import built, evaluate, example, train

from manyhands.tables import LocalStore, roll_back, tables_of

SMALL = {"users": 300, "items": 100, "rows": 100_000, "batch_size": 512, "micro_batches": 4}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_learns_nearly_all_there_is(tmp_path):
    job = example("recommend").job(**SMALL, steps=400)
    model = built(job)
    with LocalStore(tables_of(model), tmp_path) as store:
        before = evaluate(job, model)
        *_, _ = train(job, model, store)
        after = evaluate(job, model)
    assert after["best_possible"] == before["best_possible"]
    excess = {when: figures["loss"] - figures["best_possible"] for when, figures in (("0", before), ("1", after))}
    assert excess["0"] > 0.25 and 0 < excess["1"] < 0.02


def result(job, folder, workers: int) -> tuple:
    model = built(job)
    with LocalStore(tables_of(model), folder) as store:
        *_, _ = train(job, model, store, workers)
        return {name: file.digest() for name, file in store.files.items()}, model.state_dict()["mlp.0.weight"].tolist()


def test_any_number_of_workers_trains_the_same_tables(tmp_path):
    job = example("recommend").job(**{**SMALL, "micro_batches": 8}, steps=6)
    alone = result(job, tmp_path / "1", 1)
    for workers in (2, 3, 5, 8):
        assert result(job, tmp_path / str(workers), workers) == alone


def test_going_back_and_on_is_not_having_gone(tmp_path):
    plain = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.1)}  # the model's weights are its whole state
    job = dataclasses.replace(example("recommend").job(**SMALL, steps=8), **plain)
    expected = result(job, tmp_path / "calm", 1)
    model = built(job)
    with LocalStore(tables_of(model), tmp_path / "back") as store:
        steps = train(job, model, store)
        for step in range(8):
            store.mark(step)
            if step == 5:
                kept = {name: value.clone() for name, value in model.state_dict().items()}
            next(steps)
    for name in tables_of(model):
        assert roll_back(tmp_path / "back" / f"{name}.table", 5) > 0
    model.load_state_dict(kept)
    with LocalStore(tables_of(model), tmp_path / "back") as store:
        assert len(list(train(job, model, store, start=5))) == 3
        digests = {name: file.digest() for name, file in store.files.items()}
    assert (digests, model.state_dict()["mlp.0.weight"].tolist()) == expected


def test_samples_are_a_function_of_their_index():
    data = example("recommend").job().data()
    together = data.__getitems__([5, 7, 1_999_999])
    for index, (rows, target) in zip([5, 7, 1_999_999], together, strict=True):
        assert torch.equal(data[index][0], rows) and torch.equal(data[index][1], target)
    rows, target = (torch.stack(column) for column in zip(*data.__getitems__(list(range(20_000))), strict=True))
    assert abs(float((target[:, 0] - target[:, 1]).mean())) < 0.01  # clicks are drawn with their probability
    counts = torch.unique(rows[:, 0], return_counts=True)[1].sort(descending=True).values
    assert counts[0] > 10 * counts[50] > 0  # and users by a power law
