"""Memory that several processes share, and that nobody has to clean up.

A `SharedMemory` is an anonymous file (memfd): it has no name, is handed over as a file descriptor, and the
kernel frees it when the last process that holds it is gone, however that process ended. Pages that were never
written take no memory.
"""

from __future__ import annotations

import mmap
import os


class SharedMemory:
    """An anonymous shared file and this process's view of it.

    Args:
        descriptor: an open descriptor, which the object owns from now on; None creates a new file.
        size: bytes; the file grows to at least this.
    """

    def __init__(self, size: int, descriptor: int | None = None, name: str = "manyhands") -> None:
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC) if descriptor is None else descriptor
        size = max(size, mmap.PAGESIZE)
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        self.view = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)

    def grow(self, size: int) -> None:
        """Make the file at least `size` bytes and map all of it again. Views taken before stay valid."""
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        if len(self.view) < os.fstat(self.descriptor).st_size:
            self.view = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)

    def reserve(self, size: int) -> None:
        """Have the kernel provide the first `size` bytes now, which costs a third of providing them page by page.

        Does nothing if there is not enough memory: pages then come as they are written.
        """
        if os.fstat(self.descriptor).st_blocks * 512 < size:
            try:
                os.posix_fallocate(self.descriptor, 0, size)
            except OSError:
                return

    def close(self) -> None:
        """Let go of the descriptor; the mapping goes with the last tensor or view that looks into it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
