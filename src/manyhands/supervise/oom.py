"""Whether the kernel has killed a process of this control group because memory ran out."""

from __future__ import annotations

from pathlib import Path

OUT_OF_MEMORY_REMEDY = (
    "The kernel ended it because memory ran out: use fewer workers, a smaller micro-batch (more micro_batches) "
    "or precision='bf16'."
)


class OutOfMemory:
    """Watches the kernel's counters of out-of-memory kills."""

    def __init__(self) -> None:
        self._count = self._read()

    def happened(self) -> bool:
        """Whether there was a kill since the last time this was asked."""
        before, self._count = self._count, self._read()
        return self._count > before

    def _read(self) -> int:
        for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
            try:
                lines = Path(path).read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return 0
