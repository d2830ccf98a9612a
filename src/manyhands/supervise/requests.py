"""Commands to a live run: checked at the door, and brought about by the supervisor."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import assert_never

from manyhands.engine import HERE, Engine, Loop
from manyhands.errors import UserError
from manyhands.gang import Turn
from manyhands.plan import WAYS, Plan, parse_address
from manyhands.run import Answer, Command, Done, Refused, Resize, ShareSlots, Show, Status, Stop, Watch
from manyhands.supervise import heard
from manyhands.supervise.draft import Outcome
from manyhands.supervise.standing import Standing

Reply = Callable[[Answer], None]
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
        status: Callable[[], Status],
    ) -> None:
        self._micro_batches, self._engine, self._loop = micro_batches, engine, loop
        self._standing, self._apply, self._status = standing, apply, status
        self._reaching = False
        """Whether hosts are being reached for a resize."""

    def answer(self, command: Command, reply: Reply) -> None:
        """Do what a command asks for, and answer it."""
        match command:
            case Show() | Watch():
                reply(self._status())
            case Stop():
                self._apply((heard.asked_to_stop(self._standing(), "stopped by command"), ()))
                reply(Done())
            case ShareSlots():
                reply(self._share(command))
            case Resize():
                self._resize(command, reply)
            case _:
                assert_never(command)

    def _share(self, wish: ShareSlots) -> Done | Refused:
        plan, way = self._standing().wanted, wish.way
        if way is None:
            self._apply(heard.shared(self._standing(), ()))
            return Done()
        if way not in WAYS:
            return Refused(f"there is no way {way!r} to share slots. There are: {', '.join(WAYS)}.")
        if way != "together" and (plan.layout.split or plan.sync.policy == "server"):
            return Refused(f"workers of {plan.layout}, --sync {plan.sync}, wait for each other anywhere.")
        self._apply(heard.shared(self._standing(), tuple(Turn(way=way, file=file) for file in wish.files)))
        return Done()

    def _resize(self, wish: Resize, reply: Reply) -> None:
        """Change the plan, once the hosts that it needs are reached: that takes seconds, and the gang goes on."""
        if wish == Resize():
            reply(Refused("resize needs a number of workers, a layout, a policy or hosts."))
            return
        if self._reaching:
            reply(Refused("a resize to other hosts is under way. Try again."))
            return
        wanted = self._standing().wanted
        try:
            plan = wanted.resized(**dataclasses.asdict(wish))
        except UserError as error:
            reply(Refused(str(error)))
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
            reply(self._change(plan) if error is None else Refused(error))

        threading.Thread(target=reach, daemon=True, name="reach").start()

    def _change(self, plan: Plan) -> Done | Refused:
        if self._standing().ending is not None:
            return Refused("the run is ending and cannot be resized.")
        try:
            plan.check(self._micro_batches, self._engine.reach({}))
        except UserError as error:
            return Refused(str(error))
        self._apply(heard.resized(self._standing(), plan))
        return Done(resizes=self._standing().resizes)
