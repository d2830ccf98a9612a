"""A worker's own sums against the recursion, in whatever order the items come."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.collective import Fold, Node, fold, leaves
from manyhands.sync import LocalSum


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    """The aligned binary tree, by recursion."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    return tree(values[:half]) + tree(values[half:])


def over(node: Node, values: list[torch.Tensor]) -> torch.Tensor:
    """The sum over a node of the tree."""
    return tree(values[node.index << node.level : (node.index + 1) << node.level])


def values_of(total: int, items: int, seed: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(3, generator=generator) * 1e3 for _ in range(items)] for _ in range(total)]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype and a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 24), st.integers(0, 2**31))
def test_a_block_leaves_its_subtrees_in_the_outputs(data, total, seed):
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    plan = fold(leaves(start, stop), total)
    values = values_of(total, 3, seed)
    outputs = [[torch.full((3,), float("nan")) for _ in range(3)] for _ in plan.rest]
    local = LocalSum(plan, outputs)
    for leaf, index in enumerate(range(start, stop)):
        order = data.draw(st.permutations(range(3)))
        cut = data.draw(st.integers(0, 3))
        for items in (order[:cut], order[cut:]):  # as buckets are folded one by one
            local.push(leaf, items, [values[index][item].clone() for item in items])
    for node, row in zip(plan.rest, outputs, strict=True):
        for item in range(3):
            assert same_bits(row[item], over(node, [v[item] for v in values]))


@settings(max_examples=30)
@given(st.integers(1, 33), st.integers(0, 2**31))
def test_alone_the_whole_tree_is_the_result(total, seed):
    values = values_of(total, 2, seed)
    local = LocalSum(fold(leaves(0, total), total), None)
    for leaf in range(total):
        local.push(leaf, [0, 1], [v.clone() for v in values[leaf]])
    for item in range(2):
        assert same_bits(local.result(item), tree([v[item] for v in values]))


def test_few_gradients_are_alive():
    total = 64
    local = LocalSum(fold(leaves(0, total), total), None)
    most = 0
    for leaf in range(total):
        local.push(leaf, [0], [torch.ones(1)])
        most = max(most, len({id(entry[0]) for entry in local._stack if entry}))
    assert most <= 7  # log2(64) + 1
    local.clear()
    assert not any(local._stack)


def test_a_second_step_reuses_the_object():
    local = LocalSum(fold(leaves(0, 3), 3), None)
    for base in (1.0, 10.0):
        for leaf in range(3):
            local.push(leaf, [0], [torch.tensor([base + leaf])])
        assert local.result(0).item() == 3 * base + 3
        local.clear()


def test_left_to_right_without_a_tree():
    values = values_of(5, 1, 7)
    output = [[torch.empty(3)]]
    local = LocalSum(Fold((0, 1, 1, 1, 1), (Node(0, 2),)), output)
    expected = values[0][0].clone()
    for leaf in range(5):
        local.push(leaf, [0], [values[leaf][0].clone()])
        expected = expected + values[leaf][0] if leaf else expected
    assert same_bits(output[0][0], expected)


def test_nothing_to_push_changes_nothing():
    local = LocalSum(fold(leaves(0, 2), 2), None)
    local.push(0, [], [])
    assert not any(local._stack)
