"""Commands to a live run: checked at the door, and brought about by the supervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from manyhands.engine import HERE, Engine, Loop
from manyhands.errors import UserError
from manyhands.gang import Turn
from manyhands.plan import WAYS, Plan, parse_address
from manyhands.supervise import heard
from manyhands.supervise.draft import Outcome
from manyhands.supervise.standing import Standing

_RESIZES = ("workers", "layout", "sync", "hosts", "server_hosts")
"""What a resize may change of the plan."""

Reply = Callable[[dict[str, Any]], None]
"""Takes the answer to a command, now or later."""


class Requests:
    """Answers commands.

    Args:
        micro_batches: those of the job.
        engine: reaches a plan's hosts.
        loop: the engine's.
        standing: how the run stands.
        apply: takes how it is to stand, and carries out what that needs.
        status: what `show` tells.
    """

    def __init__(
        self,
        micro_batches: int,
        engine: Engine,
        loop: Loop,
        standing: Callable[[], Standing],
        apply: Callable[[Outcome], None],
        status: Callable[[], dict[str, Any]],
    ) -> None:
        self._micro_batches, self._engine, self._loop = micro_batches, engine, loop
        self._standing, self._apply, self._status = standing, apply, status
        self._reaching = False
        """Hosts are being reached for a resize."""

    def answer(self, request: Mapping[str, Any], reply: Reply) -> None:
        """Do what a command asks for, and answer it."""
        match request.get("command"):
            case "show":
                reply(self._status())
            case "stop":
                self._apply((heard.asked_to_stop(self._standing(), "stopped by command"), ()))
                reply({"ok": True})
            case "share":
                reply(self._share(request.get("way"), request.get("files")))
            case "resize":
                self._resize(request, reply)
            case other:
                reply({"error": f"unknown command {other!r}"})

    def _share(self, way: Any, files: Any) -> dict[str, Any]:
        """Share the slots with another job from now on: `way` is of plan/sharing.py, or None; `files` are the
        slots'."""
        plan = self._standing().wanted
        if way is None:
            self._apply(heard.shared(self._standing(), ()))
            return {"ok": True}
        texts = isinstance(files, list) and all(isinstance(file, str) for file in files)
        if not isinstance(way, str) or not texts:
            return {"error": "share needs a way, and a file for every worker."}
        if way not in WAYS:
            return {"error": f"there is no way {way!r} to share slots. There are: {', '.join(WAYS)}."}
        if way != "together" and (plan.layout.split or plan.sync.policy == "server"):
            return {"error": f"workers of {plan.layout}, --sync {plan.sync}, wait for each other anywhere."}
        self._apply(heard.shared(self._standing(), tuple(Turn(way=way, file=file) for file in files)))
        return {"ok": True}

    def _resize(self, request: Mapping[str, Any], reply: Reply) -> None:
        """Change the plan, once the hosts that it needs are reached: that takes seconds, and the gang goes on."""
        workers, *texts = (request.get(name) for name in _RESIZES)
        typed = isinstance(workers, int | None) and all(isinstance(text, str | None) for text in texts)
        if not typed or (workers is None and not any(texts)):
            reply({"error": "resize needs a number of workers, a layout, a policy or hosts."})
            return
        if self._reaching:
            reply({"error": "a resize to other hosts is under way. Try again."})
            return
        wanted = self._standing().wanted
        try:
            plan = wanted.resized(**{name: request.get(name) for name in _RESIZES})
        except UserError as error:
            reply({"error": str(error)})
            return
        new = {name: parse_address(name) for name in set(plan.places) - set(wanted.places) - {HERE}}
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
        if self._standing().ending is not None:
            return {"error": "the run is ending and cannot be resized."}
        try:
            plan.check(self._micro_batches, self._engine.reach({}))
        except UserError as error:
            return {"error": str(error)}
        self._apply(heard.resized(self._standing(), plan))
        return {"ok": True, "workers": plan.workers, "resizes": self._standing().resizes}
