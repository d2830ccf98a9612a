"""Lends this machine: lets the supervisors of runs in that know the token, and starts a guest for each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from manyhands.engine.channel import Channel
from manyhands.engine.hosts.line import BEAT_SECONDS, LineLostError, send_with
from manyhands.engine.hosts.messages import Beat, Lend
from manyhands.errors import UserError
from manyhands.wire import BACKLOG, Gate, TurnedAway

_GRACE_SECONDS = 5.0
_SPARE_SECONDS = 10.0
"""Seconds until another spare guest is started: the run that took the last one begins, and wants the processor."""


class Agent:
    """Listens for supervisors.

    Args:
        address: of this machine; empty for all of its.
        port: 0 for any that is free.
        token: what supervisors must know.
        say: tells the user.
        spare: keep a guest ready that has torch loaded, so that a run begins seconds sooner; it takes 0.3 GB of memory.

    Raises:
        UserError: it cannot listen there.
    """

    def __init__(self, address: str, port: int, token: bytes, say: Callable[[str], None], spare: bool = False) -> None:
        self._token, self._say = token, say
        try:
            self._listener = socket.create_server((address, port), backlog=BACKLOG)
        except OSError as error:
            raise UserError(
                f"cannot listen on {address or 'this machine'} port {port}: {error.strerror}. Is another agent running "
                "here? --port takes another port."
            ) from None
        self.port: int = self._listener.getsockname()[1]
        self._guests: dict[int, subprocess.Popen[bytes]] = {}
        self._spare: tuple[subprocess.Popen[bytes], Channel] | None = None
        self._spare_wanted = threading.Event()
        self._gate = Gate(self._listener, token, 0, self._enter, TurnedAway(say), name="manyhands-agent")
        self._lock = threading.Lock()
        self._closed = False
        if spare:
            self._spare_wanted.set()
            threading.Thread(target=self._keep_spare, daemon=True).start()

    def serve(self) -> None:
        """Let supervisors in until the agent is closed."""
        self._gate.serve()

    def close(self) -> None:
        """End the guests, and stop serving."""
        with self._lock:
            self._closed = True
            guests = [*self._guests.values(), *([self._spare[0]] if self._spare is not None else [])]
        self._gate.close()
        self._listener.close()
        for guest in guests:
            guest.send_signal(signal.SIGTERM)
        for guest in guests:
            try:
                guest.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                guest.kill()

    def _enter(self, sock: socket.socket, host: str, purpose: dict[str, Any]) -> None:
        if purpose.get("watch"):
            self._beat(sock)
            return
        with sock:
            guest = self._start(sock)
        if guest is None:
            return
        self._say(f"a run from {host} is here (process {guest.pid})")
        guest.wait()
        self._say(f"the run from {host} is gone (process {guest.pid})")
        with self._lock:
            self._guests.pop(guest.pid, None)

    def _beat(self, sock: socket.socket) -> None:
        """Let somebody know that this machine is there, until he has heard enough."""
        with sock:
            while not self._closed:
                try:
                    send_with(sock, Beat())
                except LineLostError:
                    return
                time.sleep(BEAT_SECONDS)

    def _start(self, sock: socket.socket) -> subprocess.Popen[bytes] | None:
        """Hand a connection over to a guest that has none yet."""
        with self._lock:
            if self._closed:
                return None
            spare, self._spare = self._spare, None
            guest, channel = spare if spare is not None and spare[0].poll() is None else self._launch()
            self._guests[guest.pid] = guest
        channel.send(Lend(token=self._token.decode()), [sock.fileno()])
        channel.close()
        self._spare_wanted.set()
        return guest

    def _launch(self, *how: str) -> tuple[subprocess.Popen[bytes], Channel]:
        """Start a guest, which ends when the calling thread does."""
        channel, remote = Channel.pair()
        command = [sys.executable, "-m", "manyhands.engine.hosts.guest", str(remote.link.fileno()), str(os.getpid())]
        guest = subprocess.Popen(
            [*command, *how], stdin=subprocess.DEVNULL, pass_fds=(remote.link.fileno(),), start_new_session=True
        )
        remote.close()
        return guest, channel

    def _keep_spare(self) -> None:
        delay = 0.0
        while True:
            self._spare_wanted.wait()
            self._spare_wanted.clear()
            time.sleep(delay)
            delay = _SPARE_SECONDS
            with self._lock:
                if self._closed:
                    return
                if self._spare is None:
                    self._spare = self._launch("spare")
