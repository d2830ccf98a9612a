"""How long training stands still when a worker is killed.

Measured: seconds from SIGKILL of a random worker, at a random moment, to the next committed step that was
computed after it; and how many steps had to be computed again. A small GPT on the CPU, observed from outside.

  2 workers   the survivor keeps its state; the newcomer is handed it
  1 worker    nobody survives; the newcomer takes the snapshot in shared memory

Bound: median under 1 s, worst under 3 s, over 20 kills each.

Beside it torchrun, DDP over gloo, the same model on two processes, a checkpoint after every step; `hung` is a
kill after which no step was committed within the deadline, or torchrun gave up.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import BENCHMARKS, EXAMPLE_JOB, ROOT, arguments, console, machine, summary, table, tail, write_results
from runs import Kill, Run, Tail, kill_and_time, torchrun

SMALL = "--layers 2 --width 64 --context 64 --batch-size 16 --micro-batches 4 --steps 1000000"
DEADLINE = 60.0
"""Seconds; then a kill counts as hung."""
START_DEADLINE = 120.0
RESTARTS = 100
"""More than torchrun ever needs."""
PEERS = {
    "torchrun": (["--nnodes=1", "--master-port={port}"], {}),
    "torchrun --standalone": (["--standalone"], {}),
    "torchrun --standalone, own store": (["--standalone"], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}),
}
"""Name -> options of torchrun, environment. The last is the workaround for its hang after a restart."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, help="of manyhands, per number of workers; default 20")
    parser.add_argument("--peer-kills", type=int, help="of each way to use torchrun; default 4")
    options = parser.parse_args()
    kills = options.kills or (4 if options.quick else 20)
    peer_kills = options.peer_kills or (1 if options.quick else 4)
    facts = machine()
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="recovery-") as folder:
        for workers in (2, 1):
            name = f"manyhands, {workers} worker{'s' if workers > 1 else ''}"
            measured[name] = ours(Path(folder) / f"workers-{workers}", workers, kills)
            console.print(f"{name}: {brief(measured[name])}")
        for number, (name, (flags, environment)) in enumerate(PEERS.items()):
            measured[name] = peer(Path(folder) / f"peer-{number}", flags, environment, peer_kills)
            console.print(f"{name}: {brief(measured[name])}")
    show(measured)
    settings = {"job": SMALL, "deadline": DEADLINE, "bound": {"median": 1.0, "worst": 3.0}}
    write_results("recovery", options.quick, facts, {"settings": settings, "recovery": measured})


def ours(directory: Path, workers: int, kills: int) -> dict[str, Any]:
    """Kill workers of one run, one after the other."""
    chance = random.Random(workers)
    with Run(directory, EXAMPLE_JOB, ["--example", "gpt", f"--flags={SMALL}"], ["--workers", str(workers)]) as run:
        run.wait_for_step(20, START_DEADLINE)
        done: list[Kill] = []
        while len(done) < kills:
            done.append(kill_and_time(run, workers, chance, DEADLINE))
            if done[-1].seconds is None:
                break
        result = run.stop() if done[-1].seconds is not None else {}
    figures = figures_of(done)
    figures |= {"recoveries": result.get("recoveries"), "deviations": result.get("deviations")}
    return figures


class Torchrun:
    """DDP under torchrun, as a process group of its own; leaves no process behind."""

    def __init__(self, directory: Path, options: list[str], environment: dict[str, str]) -> None:
        directory.mkdir()
        self.output = directory / "output.txt"
        self.steps, self.workers = Tail(directory / "steps.jsonl"), Tail(directory / "workers.jsonl")
        self.step = self.restart = 0
        self.started: list[dict[str, Any]] = []
        script = BENCHMARKS / "peers" / "ddp_gpt.py"
        flags = ["--directory", str(directory), f"--flags={SMALL}"]
        options = [option.format(port=_free_port()) for option in options]
        command = torchrun(script, flags, [*options, f"--max-restarts={RESTARTS}"])
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def look(self) -> None:
        """Take in what was written."""
        for line in self.steps.new():
            self.step, self.restart = line["step"], line["restart"]
        self.started += self.workers.new()

    def wait(self, restart: int, step: int, deadline: float) -> bool:
        """Wait until a generation of at least `restart` has committed a step after `step`; whether it has."""
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            self.look()
            if self.restart >= restart and self.step > step:
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.001)
        return False

    def close(self) -> None:
        """End torchrun, then whatever it has left: its workers are sessions of their own."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.look()
        for worker in self.started:
            if _is_peer(worker["pid"]):
                os.kill(worker["pid"], signal.SIGKILL)


def peer(directory: Path, options: list[str], environment: dict[str, str], kills: int) -> dict[str, Any]:
    """Kill workers of torchrun, which is started anew whenever it has hung or given up."""
    chance = random.Random(0)
    done: list[Kill] = []
    directory.mkdir()
    while len(done) < kills:
        run = Torchrun(directory / f"start-{len(done)}", options, environment)
        try:
            if not run.wait(0, 20, START_DEADLINE):
                raise RuntimeError(f"torchrun has not started:\n{tail(run.output)}")
            while len(done) < kills:
                done.append(kill_peer(run, chance))
                if done[-1].seconds is None:
                    break
        finally:
            run.close()
    return figures_of(done)


def kill_peer(run: Torchrun, chance: random.Random) -> Kill:
    """Kill a random worker of the newest generation, and time the recovery."""
    time.sleep(chance.uniform(0.3, 1.0))
    run.look()
    newest = max(worker["restart"] for worker in run.started)
    victim = chance.choice([worker for worker in run.started if worker["restart"] == newest])
    step, began = run.step, time.perf_counter()
    os.kill(victim["pid"], signal.SIGKILL)
    recovered = run.wait(newest + 1, step, DEADLINE)
    took = time.perf_counter() - began
    run.look()
    return Kill(took if recovered else None, victim["rank"], 0, max(r["restart"] for r in run.started) - newest)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _is_peer(pid: int) -> bool:
    """Whether the process still is what this script started, not another that was given its number."""
    try:
        return b"ddp_gpt.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def figures_of(done: list[Kill]) -> dict[str, Any]:
    seconds = [kill.seconds for kill in done if kill.seconds is not None]
    return {
        "seconds": summary(seconds) if seconds else None,
        "hung": len(done) - len(seconds),
        "recomputed_steps": sum(kill.recomputed for kill in done),
        "kills": [kill.as_dict() for kill in done],
    }


def brief(figures: dict[str, Any]) -> str:
    seconds = figures["seconds"]
    times = f"median {seconds['median']:.2f} s, worst {seconds['max']:.2f} s, " if seconds else ""
    return f"{times}{figures['hung']} of {len(figures['kills'])} hung"


def show(measured: dict[str, dict[str, Any]]) -> None:
    rows = []
    for name, figures in measured.items():
        seconds = figures["seconds"]
        times = [f"{seconds[key]:.2f}" if seconds else "-" for key in ("median", "max", "min")]
        count = len(figures["kills"])
        tries = str(max(kill["generations"] for kill in figures["kills"]))
        rows.append([name, str(count), *times, str(figures["hung"]), str(figures["recomputed_steps"]), tries])
    columns = [
        "",
        "kills",
        "median s",
        "worst s",
        "least s",
        f"hung (> {DEADLINE:.0f} s)",
        "steps again",
        "most restarts",
    ]
    table("From SIGKILL to the next committed step", columns, rows)


if __name__ == "__main__":
    main()
