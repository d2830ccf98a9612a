"""Runs a job under several layouts, one after another, and sets what was predicted beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyhands.compare.measured import Trial, entry_of, links_of, profile_of
from manyhands.compare.predict import Links, Profile, predict
from manyhands.compare.weights import difference
from manyhands.errors import UserError
from manyhands.gang import Probing
from manyhands.pipeline import Table, make_table
from manyhands.plan import Layout, Plan
from manyhands.report.comparison import Comparison, Entry
from manyhands.run import RunDirectory, read_json
from manyhands.supervise import Care, Session, run_session

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What is to be compared."""

    directory: Path
    """The folder in which each layout has its run directory."""
    job_file: Path
    arguments: list[str] = field(default_factory=list)
    layouts: tuple[Layout, ...]
    """The layouts to run; one worker comes first, whether it is named or not."""
    steps: int = 6
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of `Plan` that all runs have."""


def parse_layouts(text: str) -> tuple[Layout, ...]:
    """Read `dp=2; pp=2,schedule=1f1b`: one worker first, each once.

    Raises:
        UsageError: one of them cannot be read.
    """
    named = [Layout.parse(part) for part in text.split(";") if part.strip()]
    return tuple(dict.fromkeys([Layout(), *named]))


def compare(trials: Trials, tell: Callable[[str], None] = lambda text: None) -> Comparison | None:
    """Run every layout for a few steps. None if it was interrupted.

    Args:
        tell: called with the layout that is about to run.

    Raises:
        UserError: one worker alone cannot train the job; nothing can be compared then.
    """
    found: list[Trial] = []
    for number, layout in enumerate(trials.layouts):
        tell(str(layout))
        trial = _run(trials, number, layout, found)
        if trial.interrupted:
            return None
        if number == 0 and trial.refusal:
            raise UserError(f"one worker, with which all is compared, did not finish: {trial.refusal}")
        found.append(trial)
    return _compared(trials, found)


def _run(trials: Trials, number: int, layout: Layout, before: list[Trial]) -> Trial:
    """One layout's run, to its end or to what kept it from running.

    Args:
        before: what ran before; what it tells of the job may be reason enough.
    """
    name = f"{number}-{str(layout).replace('/', '+')}" if number else "0-one-worker"
    directory = RunDirectory(trials.directory / name)
    session = Session(
        directory=directory.path,
        job_file=trials.job_file,
        arguments=trials.arguments,
        plan={**trials.plan, "layout": str(layout)},
        care=Care(checkpoint_seconds=3600.0, keep_checkpoints=1),
        probe=Probing(steps=trials.steps, stages=tuple(sorted({layout.stages for layout in trials.layouts}))),
        quiet=True,
    )
    refusal, code = "", 0
    try:
        plan = Plan(**session.plan)
        if before:
            job = read_json(before[0].directory.run)["job"]
            plan.check(job["micro_batches"], job["cuda_devices"])
        code = run_session(session)
        if code and code != INTERRUPTED:
            refusal = f"it ended with code {code}; see {directory.log}"
    except UserError as error:
        refusal = str(error)
    result = read_json(directory.result)
    if not refusal and code == 0 and "figures" not in result:
        refusal = f"it left no figures; see {directory.log}"
    return Trial(layout, directory, result, refusal, code == INTERRUPTED)


def _compared(trials: Trials, found: list[Trial]) -> Comparison:
    reference = found[0]
    settings = read_json(reference.directory.run)
    links = links_of([trial for trial in found if not trial.refusal])
    entries = [entry_of(reference)]
    for trial in found[1:]:
        if trial.refusal:
            entries.append(Entry(layout=str(trial.layout), directory=trial.directory.path.name, refusal=trial.refusal))
        else:
            profile = profile_of(reference, settings, trial.layout.stages)
            entries.append(_entry(trial, reference, profile, links))
    job, hardware = settings["job"], settings["hardware"]
    return Comparison(
        job_file=trials.job_file.name,
        arguments=" ".join(trials.arguments),
        steps=trials.steps,
        batch=f"{job['batch_size']} in {job['micro_batches']} micro-batches",
        machine=f"{hardware['host']}, {hardware['cores']} cores, {job['device']}",
        versions=", ".join(f"{name} {version}" for name, version in job["versions"].items()),
        uncut=next((cut["uncut"] for cut in reference.figures[0]["by_stages"].values() if "uncut" in cut), ""),
        busy_cores=profile_of(reference, settings, 1).busy_cores,
        cores=hardware["cores"],
        entries=tuple(entries),
    )


def _entry(trial: Trial, reference: Trial, profile: Profile, links: Links) -> Entry:
    """A layout that ran: what it did beside what was foreseen."""
    cuts = tuple(trial.figures[0]["cuts"]) or (0,)
    apart, same = difference(reference, trial)
    return entry_of(
        trial,
        predicted=predict(trial.layout, cuts, profile, links),
        difference=apart,
        same_bits=same,
        stages=tuple(profile.units[cut].name for cut in cuts) if trial.layout.pp > 1 else (),
        table=_table(trial.layout, profile.micro_batches),
    )


def _table(layout: Layout, micro_batches: int) -> Table | None:
    """What ranks do, where the gang is one pipeline."""
    if layout.pp != layout.workers or layout.pp == 1:
        return None
    return make_table(layout.schedule, layout.pp, micro_batches, layout.virtual)
