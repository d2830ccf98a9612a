"""Row-wise optimizers against torch's sparse ones, and that a row's bits depend on that row alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyhands.errors import UsageError
from manyhands.tables import RowAdagrad, RowAdam, RowSGD
from manyhands.tables.optimizers import optimizer_from_json, optimizer_to_json

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

OPTIMIZERS = [RowSGD(lr=0.3), RowAdagrad(lr=0.1, initial=0.25), RowAdam(lr=0.05, betas=(0.8, 0.95))]
optimizers = st.sampled_from(OPTIMIZERS)


def start(optimizer, rows: int, width: int, seed: int = 0):
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, width), np.float32)
    state = np.full((rows, optimizer.state_width(width)), optimizer.initial_state, np.float32)
    return values, state, random


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@given(st.data(), optimizers, st.integers(1, 70), st.sampled_from([1, 3, 8, 16, 17, 64]), st.integers(0, 2**31))
def test_a_row_does_not_depend_on_its_company(data, optimizer, rows, width, seed):
    values, state, random = start(optimizer, rows, width, seed)
    alone, alone_state = values.copy(), state.copy()
    stride = np.zeros((rows, 1 + width + state.shape[1]), np.float32)  # as rows lie in a file
    apart, apart_state = stride[:, 1 : 1 + width], stride[:, 1 + width :]
    apart[:], apart_state[:] = values, state
    for _ in range(3):
        grads = random.standard_normal((rows, width), np.float32) * np.float32(10.0 ** random.integers(-6, 6))
        used = np.flatnonzero(random.random(rows) < 0.7)
        order = np.array(data.draw(st.permutations(used.tolist())), dtype=np.int64)
        for part in np.array_split(order, data.draw(st.integers(1, 4))):
            some, some_state = values[part], state[part]
            optimizer.update(some, some_state, grads[part], 0.5)
            values[part], state[part] = some, some_state
        for row in used:
            optimizer.update(alone[row : row + 1], alone_state[row : row + 1], grads[row : row + 1], 0.5)
            optimizer.update(apart[row : row + 1], apart_state[row : row + 1], grads[row : row + 1], 0.5)
    assert bits(values) == bits(alone) == bits(apart)
    assert bits(state) == bits(alone_state) == bits(apart_state)


def torch_twin(kind: str, embedding: torch.nn.Embedding) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(embedding.parameters(), lr=0.3)
    if kind == "adagrad":
        return torch.optim.Adagrad(embedding.parameters(), lr=0.1, initial_accumulator_value=0.25)
    return torch.optim.SparseAdam(list(embedding.parameters()), lr=0.05, betas=(0.8, 0.95))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
def test_torch_does_the_same(optimizer):
    """All rows in every step, since torch counts Adam's steps per table."""
    values, state, random = start(optimizer, 40, 16)
    embedding = torch.nn.Embedding(40, 16, sparse=True)
    embedding.weight.data = torch.from_numpy(values.copy())
    twin = torch_twin(optimizer.kind, embedding)
    for _ in range(20):
        grads = random.standard_normal((40, 16), np.float32)
        optimizer.update(values, state, grads)
        embedding.weight.grad = torch.sparse_coo_tensor(torch.arange(40)[None], torch.from_numpy(grads), (40, 16))
        twin.step()
    np.testing.assert_allclose(values, embedding.weight.detach().numpy(), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS[:2], ids=lambda optimizer: optimizer.kind)
def test_torch_does_the_same_with_some_rows(optimizer):
    values, state, random = start(optimizer, 40, 16)
    embedding = torch.nn.Embedding(40, 16, sparse=True)
    embedding.weight.data = torch.from_numpy(values.copy())
    twin = torch_twin(optimizer.kind, embedding)
    for _ in range(20):
        ids = np.unique(random.integers(0, 40, 12))
        grads = random.standard_normal((len(ids), 16), np.float32)
        some, some_state = values[ids], state[ids]
        optimizer.update(some, some_state, grads)
        values[ids], state[ids] = some, some_state
        indices = torch.from_numpy(ids)[None]
        embedding.weight.grad = torch.sparse_coo_tensor(indices, torch.from_numpy(grads), (40, 16))
        twin.step()
    np.testing.assert_allclose(values, embedding.weight.detach().numpy(), rtol=3e-6, atol=1e-6)


def test_adam_corrects_by_the_updates_of_the_row():
    optimizer = RowAdam(lr=0.1)
    rows, state = np.zeros((2, 4), np.float32), np.zeros((2, 9), np.float32)
    for _ in range(1000):
        optimizer.update(rows[:1], state[:1], np.ones((1, 4), np.float32))
    optimizer.update(rows, state, np.ones((2, 4), np.float32))
    np.testing.assert_allclose(rows[1], -0.1, rtol=1e-5)  # a first step has the length lr
    assert state[:, 8].tolist() == [1001.0, 1.0]


def test_the_scale_multiplies_the_learning_rate():
    for optimizer, slow in [(RowSGD(lr=0.5), RowSGD(lr=0.25)), (RowAdam(lr=0.5), RowAdam(lr=0.25))]:
        values, state, random = start(optimizer, 5, 4)
        grads = random.standard_normal((5, 4), np.float32)
        other, other_state = values.copy(), state.copy()
        optimizer.update(values, state, grads, 0.5)
        slow.update(other, other_state, grads)
        assert bits(values) == bits(other)


def test_as_plain_data():
    for optimizer in OPTIMIZERS:
        assert optimizer_from_json(optimizer_to_json(optimizer)) == optimizer
    assert optimizer_from_json({"kind": "adam", "lr": 0.1, "betas": [0.5, 0.5]}) == RowAdam(lr=0.1, betas=(0.5, 0.5))


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: RowSGD(lr=0), "lr"),
        (lambda: RowAdagrad(lr=0.1, initial=-1), "initial"),
        (lambda: RowAdagrad(lr=0.1, eps=0), "eps"),
        (lambda: RowAdam(lr=0.1, betas=(0.9, 1.0)), "betas"),
        (lambda: RowAdam(lr=float("nan")), "lr"),
    ],
)
def test_wrong_numbers_are_refused(build, name):
    with pytest.raises(UsageError, match=name):
        build()
