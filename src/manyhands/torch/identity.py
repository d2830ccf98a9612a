"""What PyTorch asks of a process group besides communication: its names, its devices and what else it can do."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

Base: Any = dist.ProcessGroup
"""The process group's base class, untyped: its stub lists the C++ overloads; a Python class has one form for all."""


class Identity(Base):
    """A process group that says who it is. PyTorch calls the methods of these names from C++ and from Python."""

    supports_splitting = False
    supports_coalescing = False
    supports_time_estimate = False

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)  # the form that Python classes can inherit
        self._name = ""
        self._desc = ""

    def getBackendName(self) -> str:
        return "manyhands"

    def getGroupName(self) -> str:
        return self._name

    def setGroupName(self, name: str) -> None:
        self._name = name

    def getGroupDesc(self) -> str:
        return self._desc

    def setGroupDesc(self, desc: str) -> None:
        self._desc = desc

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])

    def _get_backend(self, device: torch.device) -> Identity:
        """PyTorch asks a device's backend what it can do; here group and backend are one."""
        return self

    def supports_tensor_alloc(self, device: torch.device) -> bool:
        return False
