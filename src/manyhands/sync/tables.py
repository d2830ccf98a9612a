"""Where the rows of a model's tables are under a policy, and how their gradients get there.

A worker that is alone has them in files of its own. With synchronous servers a row lives on server `id mod servers`, in
a file that the servers of a host share; a worker asks for the rows that a micro-batch uses, and pushes what they are to
be changed by with the step's other gradients. Only rows that are used travel. Sums are made in the order of law 1, so
the rows have the same bits for any number of workers and servers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from manyhands.collective import Node
from manyhands.errors import UserError
from manyhands.tables import Rows, SparseTable, TableError, TableFile, combine, divide, marks, roll_back, table_path
from manyhands.transport import Group, GroupError

_READ, _PUSH = 0x7AB1E0, 0x7AB1E8
_CHECKPOINTS = "checkpoints"

Subtrees = tuple[Sequence[Sequence[Node]], int]
"""The subtrees that each rank hands over, and the number of leaves of the tree."""


class TableSide(Protocol):
    """One process's part of the tables."""

    def push(self, pieces: Mapping[str, Sequence[Rows]]) -> None:
        """Hand over this worker's gradients of the step: per table, its subtrees."""
        ...

    def apply(self) -> None:
        """The step counts: change the rows."""
        ...

    def keep(self, step: int) -> None:
        """Rows can be had again as they are now, after `step` steps."""
        ...

    def close(self, step: int) -> None: ...


class OwnTables:
    """The tables of a process that has all rows in files of its own."""

    def __init__(self, tables: Mapping[str, SparseTable], folder: Path | None, step: int, subtrees: Subtrees) -> None:
        paths = paths_of(tables, folder)
        prepare(list(paths.values()), step)
        self.files = Files(tables, paths, step, 0)
        self._subtrees, self._pieces = subtrees, dict[str, Sequence[Rows]]()
        for name, table in tables.items():
            table.attach(name, self)

    def read(self, table: str, ids: Tensor) -> Tensor:
        return self.files.by_name[table].read(ids)

    def push(self, pieces: Mapping[str, Sequence[Rows]]) -> None:
        self._pieces = dict(pieces)

    def apply(self) -> None:
        nodes, total = self._subtrees
        for name, pieces in self._pieces.items():
            rows = combine(nodes, [pieces], total)
            self.files.by_name[name].update(rows.ids, rows.values)

    def keep(self, step: int) -> None:
        self.files.keep(step)

    def close(self, step: int) -> None:
        self.files.close(step)


class RemoteTables:
    """A worker's part where rows are on servers: the last ranks of the gang."""

    def __init__(self, tables: Mapping[str, SparseTable], gang: Group, workers: int) -> None:
        self._gang, self._workers, self._servers = gang, workers, gang.world - workers
        self._names, self._width = list(tables), {name: table.spec.width for name, table in tables.items()}
        self._step = 0
        gang.barrier().result()
        for name, table in tables.items():
            table.attach(name, self)

    def read(self, table: str, ids: Tensor) -> Tensor:
        """The rows of these ids, as they are after the steps that were applied."""
        owners = [ids % self._servers == server for server in range(self._servers)]
        rows = torch.empty(len(ids), self._width[table])
        waiting = []
        for server, own in enumerate(owners):
            wanted = ids[own]
            if len(wanted):
                peer = self._workers + server
                self._gang.send(torch.tensor([self._names.index(table), len(wanted), self._step]), peer, _READ)
                self._gang.send(wanted, peer, _READ + 1)
                answer = torch.empty(len(wanted), self._width[table])
                waiting.append((own, answer, self._gang.receive(answer, peer, _READ + 2)))
        for own, answer, future in waiting:
            future.result()
            rows[own] = answer
        return rows

    def push(self, pieces: Mapping[str, Sequence[Rows]]) -> None:
        for server in range(self._servers):
            counts, parts = [], []
            for name in self._names:
                own = [divide(piece, self._servers)[server] for piece in pieces[name]]
                counts.append([len(rows.ids) for rows in own])
                parts += [(rows.ids, rows.values) for rows in own if len(rows.ids)]
            raw = torch.frombuffer(bytearray(json.dumps(counts).encode()), dtype=torch.uint8)
            peer = self._workers + server
            self._gang.send(torch.tensor([len(raw)]), peer, _PUSH)
            self._gang.send(raw, peer, _PUSH + 1)
            for ids, values in parts:
                self._gang.send(ids.contiguous(), peer, _PUSH + 2)
                self._gang.send(values.contiguous(), peer, _PUSH + 3)

    def apply(self) -> None:
        self._step += 1

    def keep(self, step: int) -> None:
        pass

    def close(self, step: int) -> None:
        pass


class ServedTables:
    """A server's part of the tables."""

    def __init__(
        self,
        tables: Mapping[str, SparseTable],
        folder: Path | None,
        step: int,
        gang: Group,
        workers: int,
        subtrees: Callable[[], Subtrees],
    ) -> None:
        self._gang, self._workers, self._subtrees = gang, workers, subtrees
        self._names, self._width = list(tables), [table.spec.width for table in tables.values()]
        paths = paths_of(tables, folder)
        if gang.rank == workers:  # nobody may have them open
            prepare(list(paths.values()), step)
        gang.barrier().result()
        self.files = Files(tables, paths, step, gang.rank - workers)
        self._step, self._changed = 0, threading.Condition()
        threading.Thread(target=self._answer, daemon=True).start()

    def push(self, pieces: Mapping[str, Sequence[Rows]]) -> None:
        pass

    def apply(self) -> None:
        nodes, total = self._subtrees()
        received = [self._receive(worker) for worker in range(self._workers)]
        with self._changed:
            for index, name in enumerate(self._names):
                rows = combine(nodes[: self._workers], [pieces[index] for pieces in received], total)
                self.files.by_name[name].update(rows.ids, rows.values)
            self._step += 1
            self._changed.notify_all()

    def keep(self, step: int) -> None:
        with self._changed:
            self.files.keep(step)

    def close(self, step: int) -> None:
        with self._changed:
            self.files.close(step)

    def _receive(self, worker: int) -> list[list[Rows]]:
        """Receive a worker's push: per table, its subtrees."""
        length = torch.empty(1, dtype=torch.int64)
        self._gang.receive(length, worker, _PUSH).result()
        raw = torch.empty(int(length), dtype=torch.uint8)
        self._gang.receive(raw, worker, _PUSH + 1).result()
        tables = []
        for counts, width in zip(json.loads(raw.numpy().tobytes()), self._width, strict=True):
            pieces = []
            for count in counts:
                rows = Rows(torch.empty(count, dtype=torch.int64), torch.empty(count, width))
                if count:
                    self._gang.receive(rows.ids, worker, _PUSH + 2).result()
                    self._gang.receive(rows.values, worker, _PUSH + 3).result()
                pieces.append(rows)
            tables.append(pieces)
        return tables

    def _answer(self) -> None:
        """Give workers the rows that they ask for, until they are gone."""
        head = torch.empty(3, dtype=torch.int64)
        try:
            while True:
                worker = self._gang.receive(head, None, _READ).result()
                table, count, step = head.tolist()
                ids = torch.empty(count, dtype=torch.int64)
                self._gang.receive(ids, worker, _READ + 1).result()
                with self._changed:
                    self._changed.wait_for(lambda step=step: self._step >= step)
                    rows = self.files.by_name[self._names[table]].read(ids)
                self._gang.send(rows, worker, _READ + 2)
        except (GroupError, ValueError):  # the gang is over, or the files are closed
            pass


def paths_of(tables: Mapping[str, SparseTable], folder: Path | None) -> dict[str, Path]:
    """Where the tables' files are.

    Raises:
        UserError: this host has not the run directory.
    """
    if folder is None:
        raise UserError(
            f"the model has tables ({', '.join(tables)}), which live in the run directory: keep their servers, or the "
            "one worker, on the machine that the run was started on, as with --sync server --server-hosts here."
        )
    return {name: table_path(table, name, folder) for name, table in tables.items()}


class Files:
    """The open files of all tables.

    Args:
        step: steps whose changes they hold.
        writer: this process among those of the host that write to them.
    """

    def __init__(self, tables: Mapping[str, SparseTable], paths: Mapping[str, Path], step: int, writer: int) -> None:
        self.by_name: dict[str, TableFile] = {}
        self._folders = {path.parent for path in paths.values()}
        self._kept = -1
        try:
            for name, table in tables.items():
                self.by_name[name] = TableFile(paths[name], table.spec, writer)
        except BaseException:
            self.close(-1)
            raise
        self.keep(step)

    def keep(self, step: int) -> None:
        """Mark a step; forget those that are older than every checkpoint."""
        if step == self._kept:
            return
        for file in self.by_name.values():
            file.mark(step)
        self._kept = step
        checkpoints = [path for folder in self._folders for path in (folder.parent / _CHECKPOINTS).glob("step-*[0-9]")]
        durable = [int(path.name.split("-")[1]) for path in checkpoints]
        if durable:
            for file in self.by_name.values():
                file.forget(min(durable))

    def close(self, step: int) -> None:
        """Close the files; what they hold is the state after `step` steps (-1: not known)."""
        if step >= 0:
            self.keep(step)
        while self.by_name:
            self.by_name.popitem()[1].close()


def prepare(paths: Sequence[Path], step: int) -> None:
    """Put the tables of a run back to what they were after `step` steps. Nobody may have them open.

    Raises:
        TableError: they were never known at that step.
    """
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if step:
                raise TableError(f"{path} is gone: the run cannot go on from step {step}. Begin a new run.")
            continue
        known = marks(path)
        if not any(step in steps for steps in known.values()):
            raise TableError(
                f"{path} holds rows of another run or of other steps, and none after step {step}. Move it away, or "
                "give the run a directory of its own."
            )
        roll_back(path, step)
