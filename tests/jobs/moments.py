"""Moments of a cluster for tests, and an independent reading of decisions."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from manyhands.jobs import Jobs, Move, Pack, Pause, Resize, Start, State
from manyhands.jobs.state import FREE


def moment(hosts, jobs, held=(), pairs=None, shares=None) -> State:
    """
    Args:
        hosts: slots of each.
        jobs: dicts with columns; by default one worker, and nothing had. `on` are the slots of one that runs.
        held: rows that do not want to run.
    """
    slots = np.repeat(np.arange(len(hosts)), hosts)
    first, second = np.full(len(slots), FREE), np.full(len(slots), FREE)
    for row, job in enumerate(jobs):
        for slot in job.get("on", ()):
            (first if first[slot] == FREE else second)[slot] = row

    def column(name, default, kind=np.int64):
        return np.array([job.get(name, default(row, job)) for row, job in enumerate(jobs)], dtype=kind)

    columns = Jobs(
        number=column("number", lambda row, job: 100 + row),
        user=column("user", lambda row, job: 0),
        submitted=column("submitted", lambda row, job: float(row), float),
        least=column("least", lambda row, job: len(job.get("on", ())) or 1),
        most=column("most", lambda row, job: max(len(job.get("on", ())), job.get("least", 1))),
        priority=column("priority", lambda row, job: 0),
        service=column("service", lambda row, job: 0.0, float),
        workers=column("workers", lambda row, job: len(job.get("on", ()))),
        since=column("since", lambda row, job: 1000.0 if job.get("on") else 0.0, float),
        held=np.array([row in held for row in range(len(jobs))], dtype=bool),
        kind=column("kind", lambda row, job: 0),
        spread=column("spread", lambda row, job: 1.0, float),
    )
    return State(
        now=1000.0, jobs=columns, slots=slots, first=first, second=second, shares=shares or {}, pairs=pairs or {}
    )


def after(state: State, decisions) -> dict[int, tuple[int, ...]]:
    """By job, its slots when decisions were carried out, as anybody would: checks that they can be."""
    rows = {int(number): row for row, number in enumerate(state.jobs.number)}
    held = {number: set(state.slots_of(row).tolist()) for number, row in rows.items()}
    assert len({d.job for d in decisions}) == len(decisions), "one decision a job"
    packed = set()
    for decision in decisions:
        if isinstance(decision, Pause | Resize | Move):
            assert held[decision.job], f"{decision}: it does not run"
            held[decision.job] = set()
        elif isinstance(decision, Pack):
            assert state.jobs.workers[rows[decision.job]] == 0 or rows[decision.job] in state.second, decision
            held[decision.job] = set()
    for decision in decisions:
        if isinstance(decision, Start | Resize | Move | Pack):
            if isinstance(decision, Start | Pack):
                assert not held[decision.job], f"{decision}: it runs"
                assert not state.jobs.held[rows[decision.job]]
            job = rows[decision.job]
            assert len(set(decision.slots)) == len(decision.slots)
            assert state.jobs.least[job] <= len(decision.slots) <= state.jobs.most[job], decision
            held[decision.job] = set(decision.slots)
            if isinstance(decision, Pack):
                packed.add(decision.job)
    use: dict[int, int] = {}
    for slots in held.values():
        for slot in slots:
            use[slot] = use.get(slot, 0) + 1
    shared = {slot for slot, count in use.items() if count > 1}
    before = {int(slot) for slot in np.flatnonzero(state.second != FREE)}
    allowed = before | {slot for number in packed for slot in held[number]}
    assert max(use.values(), default=0) <= 2
    assert shared <= allowed, f"slots {shared - allowed} are given twice"
    return {number: tuple(sorted(slots)) for number, slots in held.items() if slots}


@st.composite
def moments(draw, elastic=False, users=3, pairs=None) -> State:
    """Any moment that can be: some jobs run, some wait, some are held by their users; with `pairs` some share slots."""
    hosts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    free = draw(st.permutations(range(sum(hosts))))
    jobs = []
    for _ in range(draw(st.integers(0, 12))):
        least = draw(st.integers(1, 5))
        most = least + (draw(st.integers(0, 4)) if elastic else 0)
        job = {"least": least, "most": most, "user": draw(st.integers(0, users - 1))}
        job |= {"priority": draw(st.integers(0, 2)), "service": draw(st.floats(0, 1e5))}
        job |= {"spread": draw(st.sampled_from([1.0, 0.5])), "kind": draw(st.integers(0, 2))}
        if draw(st.booleans()) and len(free) >= least:
            count = draw(st.integers(least, min(most, len(free))))
            job["on"], free = tuple(free[:count]), free[count:]
        job["since"] = draw(st.sampled_from([0.0, 500.0, 5000.0]))
        jobs.append(job)
        if pairs and "on" in job and draw(st.booleans()):
            size = len(job["on"])
            jobs.append({**job, "least": draw(st.integers(1, size)), "most": size, "kind": draw(st.integers(0, 2))})
    idle = [row for row, job in enumerate(jobs) if "on" not in job]
    held = draw(st.sets(st.sampled_from(idle))) if idle else set()
    return moment(hosts, jobs, held, pairs)
