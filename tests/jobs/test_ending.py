"""What becomes of a job whose supervisor is gone, by what it left."""

from dataclasses import replace

import pytest
from test_orders import job

from manyhands.engine import HERE
from manyhands.jobs.controller.processes import command
from manyhands.jobs.controller.processes.remains import Result
from manyhands.jobs.controller.scheduling.ending import LOSSES, verdict
from manyhands.jobs.controller.storage.record import Status, Wish

FINISHED = Result(status="finished", steps=9, durable_step=9, weights="w")
FAILED = Result(status="failed", steps=3, error="lab1 is gone")
STOPPED = Result(status="stopped", steps=3)
LOST = Result()


@pytest.mark.parametrize("wish", list(Wish))
def test_who_has_finished_has_finished_whatever_was_wished(wish):
    row = job(1)
    row.wish, row.error = wish, "an older trouble"
    assert verdict(row, FINISHED, 0, (), "")[:3] == (Status.FINISHED, 0, "")


def test_a_result_that_is_not_on_disk_is_not_the_end():
    found = verdict(job(1), replace(FINISHED, durable_step=5), 1, (), "the last checkpoint could not be written")
    assert found[:3] == (Status.FAILED, 0, "the last checkpoint could not be written")


def test_a_failure_is_the_jobs_unless_it_names_a_host_that_it_had():
    assert verdict(job(1), FAILED, 1, (), "")[:3] == (Status.FAILED, 0, "lab1 is gone")
    assert verdict(job(1), FAILED, 1, ("lab1",), "")[:3] == (Status.WAITING, 1, None)
    row = job(1)
    row.wish = Wish.CANCEL
    assert verdict(row, FAILED, 1, (), "").status is Status.CANCELLED


def test_who_was_stopped_by_us_goes_on_and_who_was_stopped_by_hand_pauses():
    row = job(1)
    assert verdict(row, STOPPED, 0, (), "") == (Status.PAUSED, 0, None, True)
    row.halting = True
    assert verdict(row, STOPPED, 0, (), "") == (Status.WAITING, 0, None, False)
    row.wish = Wish.PAUSE
    assert verdict(row, STOPPED, 0, (), "") == (Status.PAUSED, 0, None, False)
    assert verdict(row, LOST, None, (), "").status is Status.PAUSED, "it was killed while it stopped"


def test_supervisors_that_are_lost_are_counted_until_one_gets_a_step_done():
    row = job(1)
    row.step = 3
    for losses in range(LOSSES - 1):
        row.losses = losses
        assert verdict(row, LOST, -9, (), "") == (Status.WAITING, losses + 1, None, False)
    row.losses = LOSSES - 1
    found = verdict(row, LOST, -9, (), "words")
    assert found.status is Status.FAILED and found.error == "its supervisor was lost 5 times without a step. words"
    assert verdict(row, replace(FAILED, steps=4), -9, ("lab1",), "").losses == 1, "it got a step done"


@pytest.mark.parametrize(("words", "error"), [("there is no such flag", "there is no such flag"), ("", "with code 2")])
def test_who_does_not_begin_says_why(words, error):
    found = verdict(job(1), LOST, 2, (), words)
    assert found.status is Status.FAILED and error in found.error


def test_who_cannot_be_gone_on_with_says_why():
    row = job(1)
    assert verdict(row, "result.json is damaged", 0, (), "")[:3] == (Status.FAILED, 0, "result.json is damaged")
    row.wish = Wish.CANCEL
    assert verdict(row, "result.json is damaged", 0, (), "").status is Status.CANCELLED


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        ("host 10.0.0.1 is not to be reached", True),
        ("host 10.0.0.1:7500 is not to be reached", True),
        ("worker 1 on 10.0.0.1.", True),
        ("host 10.0.0.12 is not to be reached", False),
        ("host 110.0.0.1 is not to be reached", False),
        ("host 10.0.0.1.example is not to be reached", False),
    ],
)
def test_a_host_is_named_by_its_whole_name(error, lost):
    found = verdict(job(1), replace(FAILED, error=error), 1, ("10.0.0.1",), "")
    assert (found.status is Status.WAITING) == lost


def test_a_run_that_had_other_hosts_goes_on_where_the_cluster_is_now(tmp_path):
    row = job(1)
    row.target = ((HERE, 0), (HERE, 1))
    assert command.train(row, tmp_path, begun=True, hosts=None)[-4:] == ["--workers", "2", "--hosts", ""]
    assert "--hosts" not in command.train(row, tmp_path, begun=False, hosts=None)
    assert command.train(row, tmp_path, begun=True, hosts="a=2")[-2:] == ["--hosts", "a=2"]
