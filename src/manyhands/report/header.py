"""The head of the report: how the run stands, in figures."""

from __future__ import annotations

from html import escape

from manyhands.report.chart import (
    duration,
    number,
)
from manyhands.report.page import date, definitions
from manyhands.report.story import Story, scores


def header(run: Story, name: str) -> str:
    began = f"manyhands run, begun {date(run.settings['created'])}" if run.settings else "manyhands run"
    parts = [
        f'<header><p class="over">{began}</p><div class="title"><h1>{escape(name)}</h1>',
        f'<span class="status {escape(run.status)}">{escape(run.status)}</span></div>',
    ]
    if run.result.get("error"):
        kind = "failed" if run.status == "failed" else ""
        parts.append(f'<p class="notice {kind}">{escape(str(run.result["error"]))}</p>')
    if run.result.get("deviations"):
        parts.append(
            f'<p class="notice failed">{run.result["deviations"]} step(s) that were computed again came out '
            "differently: the job is not deterministic and its result depends on its interruptions.</p>"
        )
    if run.settings.get("job", {}).get("warning"):
        parts.append(f'<p class="notice">{escape(run.settings["job"]["warning"])}</p>')
    if not run.settings:
        parts.append('<p class="notice">There is no run.json: this directory holds no run yet.</p>')
    return "".join([*parts, definitions("tiles", _tiles(run)), definitions("facts", _facts(run)), "</header>"])


def _tiles(run: Story) -> dict[str, str]:
    last = run.steps[-1] if run.steps else {}
    total = run.result.get("total_steps")
    loss = run.result.get("loss", last.get("loss"))
    workers = [entry["workers"] for entry in run.kinds["membership"] if entry["workers"]]
    evaluation = run.kinds["evaluation"][-1] if run.kinds["evaluation"] else {}
    end = max((entry["time"] for kind in run.kinds.values() for entry in kind if "time" in entry), default=run.origin)
    tiles = {
        "Steps": f"{last.get('step', 0):,}" + (f" <small>of {total:,}</small>" if total else ""),
        "Training loss": number(loss) if loss is not None else "none yet",
    }
    for key, value in scores(evaluation).items():
        tiles[f"Evaluation: {escape(key)}"] = number(value)
    tiles["Workers"] = str(workers[-1]) if workers else "none"
    tiles["Wall time"] = duration(run.elapsed(end)) if end > run.origin else "none"
    tiles["Recoveries"] = str(sum(entry["change"] == "lost" for entry in run.kinds["membership"]))
    return tiles


def _facts(run: Story) -> dict[str, str]:
    job, plan = run.settings.get("job", {}), run.settings.get("plan", {})
    hardware = run.settings.get("hardware", {})
    sameness = "reproducible" if job.get("reproducible") else "not reproducible"
    facts = {
        "Job file": run.settings.get("job_file") or f"{run.settings.get('job_name', '')} in memory",
        "Flags": " ".join(run.settings.get("arguments", [])) or None,
        "Batch": f"{job['batch_size']} in {job['micro_batches']} micro-batches" if "micro_batches" in job else None,
        "Numbers": f"{job['precision']}, seed {job['seed']}, {sameness}" if "seed" in job else None,
        "Device": f"{job['device']}, {plan.get('threads')} thread(s) per worker" if "device" in job else None,
        "Gradients": run.result.get("exchange") or None,
        "Versions": ", ".join(f"{name} {version}" for name, version in job.get("versions", {}).items()) or None,
        "Machine": f"{hardware['host']}, {hardware['cores']} cores, {hardware['system']}"
        if "host" in hardware
        else None,
    }
    facts = {name: escape(str(fact)) for name, fact in facts.items() if fact is not None}
    if digest := run.result.get("weights_sha256"):
        facts["Weights sha256"] = f'<code title="{escape(digest)}">{escape(digest[:12])}</code>'
    return facts
