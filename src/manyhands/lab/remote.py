"""What ssh is between machines: a process in one host of a lab has its owner start a command on another.

The owner listens on an abstract Unix socket in the network namespace of every host: it has no file, and nobody outside
of that host can reach it. A request carries the three standard streams as descriptors; the command ends when the one
who asked does.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Mapping
from typing import Protocol

from manyhands.lab.inside import REMOTE_SHELL
from manyhands.lab.plug import in_network
from manyhands.lab.process import Process

_MAX_REQUEST = 1 << 17


class Start(Protocol):
    """Starts a command on a host of the lab."""

    def __call__(self, host: str, command: list[str], *, stdin: int, stdout: int, stderr: int) -> Process: ...


class RemoteShell:
    """Listens in these hosts, given by the processes that hold them, until closed."""

    def __init__(self, holders: Mapping[str, int], start: Start) -> None:
        self._hosts = set(holders)
        self._start = start
        self._closed, self._close = os.pipe()
        self._listeners = [in_network(holder, _listen) for holder in holders.values()]
        self._thread = threading.Thread(target=self._serve, name="lab-remote", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests."""
        os.close(self._close)
        self._thread.join()

    def _serve(self) -> None:
        listeners = {listener.fileno(): listener for listener in self._listeners}
        while True:
            ready, _, _ = select.select([self._closed, *listeners], [], [])
            if self._closed in ready:
                break
            for number in ready:
                connection, _ = listeners[number].accept()
                threading.Thread(target=self._answer, args=(connection,), name="lab-remote", daemon=True).start()
        for listener in self._listeners:
            listener.close()
        os.close(self._closed)

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            message, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 3)
            try:
                if not message or len(streams) != 3:
                    return
                request = json.loads(message)
                if request["host"] not in self._hosts:
                    known = ", ".join(sorted(self._hosts))
                    _send(connection, {"error": f"there is no host {request['host']}. The lab has {known}."})
                    return
                process = self._start(
                    request["host"],
                    ["sh", "-c", request["command"]],
                    stdin=streams[0],
                    stdout=streams[1],
                    stderr=streams[2],
                )
            finally:
                for stream in streams:
                    os.close(stream)
            if not _outlives(connection, process):
                process.terminate()
            _send(connection, {"code": process.wait()})


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(REMOTE_SHELL)
    listener.listen(128)
    return listener


def _outlives(connection: socket.socket, process: Process) -> bool:
    """Wait for the end of the process, or of the one who asked; whether the latter is still there."""
    ended = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([ended, connection], [], [])
    finally:
        os.close(ended)
    return ready != [connection]


def _send(connection: socket.socket, answer: object) -> None:
    try:
        connection.send(json.dumps(answer).encode())
    except OSError:
        pass  # the one who asked is gone
