"""What graphs hold at most, counted from outside, is what the verifier counts on paper.

A node of autograd in every stage holds an object that counts itself out when the graph lets it go: neither the
stage's own books nor torch's are asked.
"""

import live_checks
import pytest

from manyhands.pipeline import SCHEDULES, make_table, verify


@pytest.mark.parametrize(("ranks", "counts"), [(2, (5,)), (4, (8,))])
def test_measured_high_water_is_the_verifiers(pipes, ranks, counts):
    cases = [(schedule, count) for schedule in SCHEDULES for count in counts]
    by_rank = pipes.gang(ranks).run(live_checks.live, cases)
    for case, found in zip(cases, zip(*by_rank, strict=True), strict=True):
        table = make_table(case[0], ranks, case[1])
        stages = [len(table.stages_of(rank)) for rank in range(ranks)]
        assert [made for made, _, _ in found] == [case[1] * count for count in stages], case
        assert [most for _, most, _ in found] == list(verify(table).high_water), case
        assert [left for _, _, left in found] == [0] * ranks, case
