"""What a run is asked to be, by commands from outside: its plan, and how its slots are shared with another job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from manyhands.engine import HERE, Engine, Loop
from manyhands.errors import UserError
from manyhands.plan import WAYS, Plan, parse_address

_RESIZES = ("workers", "layout", "sync", "hosts", "server_hosts")
"""What a resize may change of the plan."""

Reply = Callable[[dict[str, Any]], None]
"""Takes the answer to a command, now or later."""


class Wanted:
    """What is asked for; the supervisor brings it about.

    Args:
        plan: the size of the gang to begin with.
        micro_batches: those of the job.
        engine: reaches a plan's hosts.
        loop: the engine's loop.
        ending: whether the run is ending, and is not resized any more.
        changed: hears of another plan: the one before, and in words how they differ.
    """

    def __init__(
        self,
        plan: Plan,
        micro_batches: int,
        engine: Engine,
        loop: Loop,
        ending: Callable[[], bool],
        changed: Callable[[Plan, str], None],
    ) -> None:
        self.plan = plan
        self.resizes = 0
        """That were asked for."""
        self._micro_batches, self._engine, self._loop = micro_batches, engine, loop
        self._ending, self._changed = ending, changed
        self._share: tuple[str, list[str]] | None = None
        """How the slots are shared: the way, and a file by rank."""
        self._reaching = False
        """Hosts are being reached for a resize."""

    def share(self, way: Any, files: Any) -> None:
        """Share the slots with another job from now on: `way` is of train/turns.py, or None; `files` are the slots'.

        Raises:
            UserError: that cannot be.
        """
        if way is not None and not (isinstance(way, str) and isinstance(files, list)):
            raise UserError("share needs a way, and a file for every worker.")
        if way is not None and way not in WAYS:
            raise UserError(f"there is no way {way!r} to share slots. There are: {', '.join(WAYS)}.")
        if way not in (None, "together") and (self.plan.layout.split or self.plan.sync.policy == "server"):
            raise UserError(f"workers of {self.plan.layout}, --sync {self.plan.sync}, wait for each other anywhere.")
        self._share = (way, files) if way is not None else None

    def share_of(self, rank: int) -> dict[str, str] | None:
        """What the worker of this rank is told of it."""
        if self._share is None or rank >= len(self._share[1]):
            return None
        way, files = self._share
        return {"way": way, "file": files[rank]}

    def resize(self, request: Mapping[str, Any], reply: Reply) -> None:
        """Change the plan, once the hosts that it needs are reached: that takes seconds, and the gang goes on."""
        workers, *texts = (request.get(name) for name in _RESIZES)
        typed = isinstance(workers, int | None) and all(isinstance(text, str | None) for text in texts)
        if not typed or (workers is None and not any(texts)):
            reply({"error": "resize needs a number of workers, a layout, a policy or hosts."})
            return
        if self._reaching:
            reply({"error": "a resize to other hosts is under way. Try again."})
            return
        try:
            plan = self.plan.resized(**{name: request.get(name) for name in _RESIZES})
        except UserError as error:
            reply({"error": str(error)})
            return
        new = {name: parse_address(name) for name in set(plan.places) - set(self.plan.places) - {HERE}}
        if not new:
            reply(self._change(plan))
            return
        self._reaching = True

        def reach() -> None:
            try:
                self._engine.reach(new)
                error = None
            except UserError as caught:
                error = str(caught)
            self._loop.post(lambda: reached(error))

        def reached(error: str | None) -> None:
            self._reaching = False
            reply(self._change(plan) if error is None else {"error": error})

        threading.Thread(target=reach, daemon=True, name="reach").start()

    def _change(self, plan: Plan) -> dict[str, Any]:
        if self._ending():
            return {"error": "the run is ending and cannot be resized."}
        try:
            plan.check(self._micro_batches, self._engine.reach({}))
        except UserError as error:
            return {"error": str(error)}
        before, self.plan = self.plan, plan
        self.resizes += 1
        if plan != before:
            how = f" as {plan.layout}" if plan.layout.split or before.layout.split else ""
            how += f", --sync {plan.sync}" if plan.sync != before.sync else ""
            how += f", on {', '.join(dict.fromkeys(plan.places))}" if set(plan.places) != set(before.places) else ""
            self._changed(before, how)
        return {"ok": True, "workers": plan.workers, "resizes": self.resizes}
