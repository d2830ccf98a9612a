"""What another chief needs to know to go on."""

from manyhands.sync.server.chief import Chief
from manyhands.sync.server.messages import Push


def push(chief: Chief, worker: int) -> None:
    share = chief.claim(worker, 7)
    assert share is not None
    told = {"norm": None, "scale": 1.0, "unused": (), "others": {}, "version": 0, "number": 1, "micro_batches": 1}
    chief.done(Push(worker=worker, share=share, losses=(1.0 + share.step,), **told), 0, 0.1)


def test_what_the_ledger_may_not_know_goes_to_the_next_chief():
    chief = Chief(1, 10, None)
    chief.join(0, None, None)
    for _ in range(3):
        push(chief, 0)
    assert [(row.step, row.loss) for row in chief.since(0)] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    chief.said(1)
    other = Chief(1, 10, None, chief.capture())
    assert other.since(0) == chief.since(0) == chief.since(1)
    assert [row.step for row in other.since(0)] == [1, 2]
    other.join(0, None, None)
    push(other, 0)
    assert [row.step for row in other.since(2)] == [2, 3]
    other.said(4)
    assert other.capture()["unsaid"] == []
