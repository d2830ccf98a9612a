"""The layer: what it looks up and which gradients it keeps, against nn.Embedding."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from manyhands.errors import UsageError, UserError
from manyhands.tables import LocalStore, RowAdagrad, RowIdError, Rows, RowSGD, SparseTable, TableError, tables_of


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.left = SparseTable(rows=20, width=4, optimizer=RowSGD(lr=1.0), **options)
        self.right = nn.ModuleDict({"deep": SparseTable(rows=30, width=4, optimizer=RowAdagrad(lr=1.0))})
        self.out = nn.Linear(4, 1)

    def forward(self, ids):
        return self.out(self.left(ids) + self.right["deep"](ids).relu()).sum()


@pytest.fixture
def model(tmp_path):
    built = Model()
    with LocalStore(tables_of(built), tmp_path):
        yield built


def dense(table: SparseTable, store: LocalStore) -> nn.Embedding:
    """The same table in memory."""
    twin = nn.Embedding(table.spec.rows, table.spec.width, padding_idx=table.padding_idx)
    with torch.no_grad():
        twin.weight.copy_(store.read(table.name, torch.arange(table.spec.rows)))
        if table.padding_idx is not None:
            twin.weight[table.padding_idx] = 0
    return twin


@given(st.data(), st.sampled_from([torch.int64, torch.int32]), st.sampled_from([None, 3]))
def test_it_is_an_embedding(tmp_path_factory, data, dtype, padding_idx):
    table = SparseTable(rows=9, width=5, optimizer=RowSGD(lr=0.5), padding_idx=padding_idx, name="t")
    with LocalStore({"t": table}, tmp_path_factory.mktemp("tables")) as store:
        twin = dense(table, store)
        uses = data.draw(st.lists(st.lists(st.integers(0, 8), min_size=6, max_size=6), min_size=1, max_size=3))
        for use in uses:
            ids = torch.tensor(use, dtype=dtype).reshape(2, 3)
            factor = torch.randn(2, 3, 5)
            out, expected = table(ids), twin(ids)
            assert torch.equal(out, expected) and out.shape == (2, 3, 5)
            (out * factor).sum().backward()
            (expected * factor).sum().backward()
        gradient = table.take()
        used = sorted({i for use in uses for i in use if i != padding_idx})
        assert gradient.ids.tolist() == used
        torch.testing.assert_close(gradient.values, twin.weight.grad[used])
        assert not len(table.take().ids)


def test_several_uses_are_merged_in_their_order(tmp_path):
    table = SparseTable(rows=9, width=2, optimizer=RowSGD(lr=0.5))
    with LocalStore({"t": table}, tmp_path):
        a, b, c = (table(torch.tensor(ids)) for ids in ([1, 2], [2, 3], [2]))
        (c.sum() * 1e-8 + (a * 3e7).sum() - (b * 3e7).sum()).backward()
        gradient = table.take()
        assert gradient.ids.tolist() == [1, 2, 3]
        expected = torch.tensor(3e7) + torch.tensor(-3e7) + torch.tensor(1e-8)
        assert gradient.values[1].tolist() == [expected.item()] * 2


def test_what_got_no_gradient_is_absent(model):
    model.left(torch.tensor([1]))  # looked up and not used
    (model.left(torch.tensor([5, 6])) * torch.tensor([[0.0], [1.0]])).sum().backward()
    assert model.left.take().ids.tolist() == [5, 6]  # a gradient of zero is one
    with torch.no_grad():
        model(torch.tensor([1]))
    model.eval()
    model(torch.tensor([1]))
    assert not model.left._used and not len(model.left.take().ids)


def test_the_model_has_no_parameter_for_it(model):
    assert sorted(model.state_dict()) == ["out.bias", "out.weight"]
    assert len(list(model.parameters())) == 2
    assert "20, 4, optimizer=RowSGD" in repr(model)


def test_names_are_paths(model):
    assert list(tables_of(model)) == ["left", "right.deep"]
    assert list(tables_of(SparseTable(rows=2, width=2, optimizer=RowSGD(lr=1.0)))) == ["table"]
    twice = nn.ModuleList([model.left, model.left])
    assert list(tables_of(twice)) == ["left"]
    assert list(tables_of(Model(name="users"))) == ["users", "right.deep"]
    with pytest.raises(UsageError, match=r"two tables of the model are named 'right\.deep'"):
        tables_of(Model(name="right.deep"))


def test_tables_begin_differently_and_as_the_seed_says():
    torch.manual_seed(3)
    one = Model()
    torch.manual_seed(3)
    assert Model().left.spec == one.left.spec
    assert one.left.spec.seed != one.right["deep"].spec.seed
    assert Model(seed=7).left.spec.seed == 7


def test_copies_and_pickles(tmp_path):
    model = Model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert {n: t.spec for n, t in tables_of(other).items()} == {n: t.spec for n, t in tables_of(model).items()}
        with LocalStore(tables_of(other), tmp_path):
            other(torch.tensor([1])).backward()
        assert model.left._store is None


@pytest.mark.parametrize("wrong", [20, -1, 10**12])
def test_ids_out_of_range(model, wrong):
    with pytest.raises(IndexError, match=rf"table left has 20 rows, 0 to 19, and was asked for row {wrong}\."):
        model.left(torch.tensor([[0, wrong]]))
    assert issubclass(RowIdError, UserError)


def test_no_store():
    with pytest.raises(UserError, match="the table users of 20 rows has no store"):
        Model(name="users").left(torch.tensor([1]))


@pytest.mark.parametrize("wrong", [{"padding_idx": 20}, {"std": -1.0}, {"seed": -5}])
def test_wrong_arguments(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        Model(**wrong)


def test_no_ids(model):
    assert model.left(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3, 4)
    (model.left(torch.empty(0, dtype=torch.int64)).sum() + model.left(torch.tensor(5)).sum()).backward()
    assert model.left.take().ids.tolist() == [5]


def test_under_autocast(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(torch.tensor([1, 2]))
    loss.backward()
    assert model.left(torch.tensor([1])).dtype == torch.float32
    assert model.left.take().values.dtype == torch.float32


@pytest.mark.filterwarnings("default")
def test_in_a_compiled_model(model):
    ids = torch.tensor([1, 2, 2])
    expected = model(ids)
    expected.backward()
    gradients = [table.take() for table in tables_of(model).values()]
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        loss = compiled(ids)
        loss.backward()
        torch.testing.assert_close(loss, expected)
        for table, (places, values) in zip(tables_of(model).values(), gradients, strict=True):
            again = table.take()
            assert torch.equal(again.ids, places)
            torch.testing.assert_close(again.values, values)


def test_under_activation_checkpointing(model):
    from torch.utils.checkpoint import checkpoint

    ids = torch.tensor([1, 2, 2])
    model(ids).backward()
    expected = model.left.take()
    checkpoint(model, ids, use_reentrant=False).backward()
    again = model.left.take()
    assert torch.equal(again.ids, expected.ids) and torch.equal(again.values, expected.values)


def test_a_local_store_trains(tmp_path):
    table = SparseTable(rows=20, width=4, optimizer=RowSGD(lr=0.5), file=tmp_path / "own" / "place.bin")
    with LocalStore({"t": table}, tmp_path / "folder") as store:
        assert not (tmp_path / "folder").exists()
        before = store.read("t", torch.tensor([3, 4]))
        store.mark(0)
        store.step({"t": Rows(torch.tensor([3]), torch.ones(1, 4))}, scale=0.5)
        assert torch.equal(store.read("t", torch.tensor([3, 4])), before - torch.tensor([[0.25], [0.0]]))
        store.sync()
        store.forget(0)
    with pytest.raises(TableError, match="holds a table with seed"):
        LocalStore({"t": SparseTable(rows=20, width=4, optimizer=RowSGD(lr=0.5), file=table.file)}, tmp_path)
