"""All commands by name, with where each is: `manyhands --help` and a typo import none of them, and a command only
itself."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from manyhands.cli.command import Command


@dataclass(frozen=True)
class Entry:
    """One command, or several under one name."""

    summary: str
    """What it does, in one sentence: the first one of its class's docstring."""
    place: str = ""
    """`module:class`, in this folder."""
    inner: Mapping[str, Entry] = field(default_factory=dict)
    """Commands under its name."""

    def load(self) -> type[Command]:
        """Import the command's class."""
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f"manyhands.cli.{module}"), name)


CLUSTER = {
    "show": Entry("Show the nodes and links of a cluster.", "cluster:Show"),
    "presets": Entry("List the clusters that are known by name.", "cluster:Presets"),
    "probe": Entry("Measure every link between hosts; run it on all of them at once.", "cluster_probe:Probe"),
}
COLLECTIVE = {
    "plan": Entry("Plan a collective: how data should travel, how fast, and why not faster.", "collective_plan:Plan"),
    "draw": Entry("Draw how a collective travels.", "collective_draw:Draw"),
    "verify": Entry("Check an MSCCL XML file by symbolic execution.", "collective_verify:Verify"),
    "bench": Entry(
        "Time collectives on this machine, or on a cluster that it emulates.",
        "collective_bench:Bench",
    ),
}
GROUPS: Mapping[str, Mapping[str, Entry]] = {
    "Runs": {
        "train": Entry("Train a job, or go on with a run.", "train:Train"),
        "show": Entry("Show how a run stands: its status, step and workers.", "show:Show"),
        "resize": Entry("Change the workers of a running job at its next step boundary.", "resize:Resize"),
        "stop": Entry("End a running job at its next step boundary, with a checkpoint.", "stop:Stop"),
        "report": Entry("Write report.html of a run, also while it runs.", "report:Report"),
        "logs": Entry("Show what a run, or a job of the controller, has printed.", "logs:Logs"),
        "convert": Entry("Write the newest whole checkpoint of a run for other programs.", "convert:Convert"),
        "compare": Entry("Run a job under several layouts for a few steps and compare them.", "compare:Compare"),
    },
    "Many jobs on one cluster": {
        "up": Entry("Start a controller: a queue of jobs on the slots of a cluster.", "up:Up"),
        "submit": Entry("Have the controller train a job.", "submit:Submit"),
        "jobs": Entry("Show the jobs of the controller: how each stands, what it has, and who waits.", "jobs:Jobs"),
        "pause": Entry("Have a job stop at its next step boundary and give up its slots.", "orders:Pause"),
        "resume": Entry("Let a job that was paused, or has failed, go on from where it was.", "orders:Resume"),
        "cancel": Entry("End a job for good; its run directory is kept.", "orders:Cancel"),
        "move": Entry("Bring a running job to other hosts.", "orders:Move"),
        "down": Entry("End the controller; its jobs stop with a checkpoint.", "down:Down"),
    },
    "Machines": {
        "agent": Entry("Lend this machine to runs that are started on others.", "agent:Agent"),
        "cluster": Entry("Describe clusters: hosts, devices, switches, and the links between them.", inner=CLUSTER),
        "lab": Entry("Run a command for every rank of an emulated cluster.", "lab:Lab"),
    },
    "Tools": {
        "simulate": Entry("Try policies on the jobs of a trace.", "simulate:Simulate"),
        "collective": Entry(
            "Plan, draw, check and time collectives: how tensors travel between machines.", inner=COLLECTIVE
        ),
    },
}
COMMANDS: Mapping[str, Entry] = {name: entry for group in GROUPS.values() for name, entry in group.items()}


def every(commands: Mapping[str, Entry] = COMMANDS, before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Entry]:
    """All commands that can be run, by the words that call them."""
    found: dict[tuple[str, ...], Entry] = {}
    for name, entry in commands.items():
        found |= every(entry.inner, (*before, name)) if entry.inner else {(*before, name): entry}
    return found
