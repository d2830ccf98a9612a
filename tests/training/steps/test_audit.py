"""Which micro-batches are computed twice, and who is found to be wrong."""

import threading

import pytest

from manyhands.collective import Block, assign_blocks
from manyhands.errors import UserError
from manyhands.training.steps.alike import DeviationError
from manyhands.training.steps.audit import Audit, chosen


@pytest.mark.parametrize("every", [1, 2, 7, 100])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_one_in_so_many_is_computed_by_another_worker(every, workers):
    blocks, count, steps = assign_blocks(12, workers), 0, 2000
    seconds = set()
    for step in range(steps):
        pairs = chosen(3, step, every, blocks)
        assert pairs == chosen(3, step, every, blocks), "all workers find the same"
        for index, (owner, second) in pairs.items():
            assert index in range(*blocks[owner]) and owner != second
            seconds.add((owner, second))
        count += len(pairs)
    assert count == pytest.approx(12 * steps / every, rel=0.25)
    assert len(seconds) == workers * (workers - 1), "everybody looks at everybody"


def test_a_worker_without_micro_batches_and_one_alone_audit_nothing():
    assert chosen(0, 0, 1, [Block(0, 4)]) == {}
    assert chosen(0, 0, 1, [Block(0, 4), Block(4, 4)]) == {}
    found = chosen(0, 0, 1, [Block(0, 2), Block(2, 2), Block(2, 4)])
    assert {rank for pair in found.values() for rank in pair} == {0, 2}


SEED = next(s for s in range(99) if len({p[1] for p in chosen(s, 5, 1, assign_blocks(4, 3)).values()}) == 3)
"""With which everybody looks at somebody in the step that is made."""


class Together:
    """Workers in threads, who can gather bytes."""

    def __init__(self, count):
        self.count, self.said = count, [b""] * count
        self.barrier = threading.Barrier(count, timeout=30)

    def gather(self, rank):
        def gather(data):
            self.said[rank] = data
            self.barrier.wait()
            told = list(self.said)
            self.barrier.wait()
            return told

        return gather


def audited(workers, computes):
    """What each worker's audit of a step of four micro-batches comes to.

    Args:
        computes: gives what a rank finds when it computes a micro-batch for the so many-th time.
    """
    together, blocks = Together(workers), assign_blocks(4, workers)
    ended, looks = [None] * workers, [{}] * workers
    audits, tries = [], [{} for _ in range(workers)]

    def compute(rank, index):
        tries[rank][index] = tries[rank].get(index, 0) + 1
        return {"the loss": "1", "the gradient of w": computes(rank, index, tries[rank][index])}

    for rank in range(workers):
        audit = Audit(SEED, 1, rank, lambda index, rank=rank: compute(rank, index))
        own = audit.begin(5, blocks)
        looks[rank] = audit.look({index: compute(rank, index) for index in own})
        audits.append(audit)

    def judge(rank):
        try:
            audits[rank].judge(looks, together.gather(rank), lambda: None)
        except UserError as error:
            ended[rank] = error

    threads = [threading.Thread(target=judge, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return ended


def test_the_same_bits_are_no_news():
    assert audited(3, lambda rank, index, time: index) == [None] * 3


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("when", ["own", "other"])
def test_who_errs_once_is_named_by_all(wrong, when):
    """Whether in its own work, or in what it does for comparison."""
    pairs = chosen(SEED, 5, 1, assign_blocks(4, 3))
    place = 0 if when == "own" else 1
    target = next(index for index, pair in pairs.items() if pair[place] == wrong)
    ended = audited(3, lambda rank, index, time: 7 if (rank, index, time) == (wrong, target, 1) else index)
    assert all(isinstance(error, DeviationError) and error.ranks == (wrong,) and error.since is None for error in ended)
    assert f"the gradient of w of micro-batch {target} of step 6" in str(ended[0])


def test_who_insists_is_not_called_wrong():
    ended = audited(2, lambda rank, index, time: rank if index == 2 else index)
    assert all(type(error) is UserError for error in ended)
    assert "workers 0 and 1" in str(ended[0]).replace("1 and 0", "0 and 1") and "--workers 1" in str(ended[0])
