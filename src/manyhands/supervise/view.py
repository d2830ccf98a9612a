"""What the person at the terminal sees: a progress bar, the workers' output, and what happened to the gang."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_REFRESH_SECONDS = 0.25
_LINE_SECONDS = 10.0
_RATE_WINDOW = 20


class _Terminal(Console):
    """A terminal that may go away, with who reads it: nobody then sees what is printed, and training goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True


class View:
    """Prints to the terminal and to the run's log.

    Args:
        log: `log.txt` of the run.
        quiet: print nothing but what goes wrong.
        silent: print nothing at all.
    """

    def __init__(self, log: Path, quiet: bool = False, silent: bool = False) -> None:
        self._console = _Terminal(stderr=True, highlight=False, quiet=silent)
        self._quiet = quiet
        self._log = log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._shown_at = 0.0
        self._recent: list[tuple[float, int]] = []
        self._progress: Progress | None = None
        self._task: Any = None

    def start(self, total_steps: int) -> None:
        """Training is about to begin."""
        if self._quiet or not self._console.is_terminal or self._progress is not None:
            return
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=total_steps, figures="")
        self._progress.start()

    def step(self, step: int, total_steps: int, loss: float, batch_size: int, workers: int, last: bool = False) -> None:
        """A step was committed."""
        now = time.monotonic()
        self._recent.append((now, step))
        del self._recent[:-_RATE_WINDOW]
        wait = _REFRESH_SECONDS if self._progress is not None else _LINE_SECONDS
        if now - self._shown_at < wait and not last:
            return
        self._shown_at = now
        then, before = self._recent[0]
        elapsed = now - then
        rate = (step - before) / elapsed if elapsed > 0 else 0.0
        eta = _clock((total_steps - step) / rate) if rate else "-"
        figures = f"loss {loss:.4f}  {rate * batch_size:,.0f} samples/s  ETA {eta}  {_workers(workers)}"
        if self._progress is not None:
            try:
                self._progress.update(self._task, completed=step, figures=figures, refresh=True)
            except OSError:
                self._console.quiet = True
        elif not self._quiet:
            self._console.print(f"step {step}/{total_steps}  {figures}", markup=False, soft_wrap=True)

    def note(self, text: str, urgent: bool = True) -> None:
        """Something happened that the user may want to know."""
        self._write(f"manyhands: {text}")
        if urgent or not self._quiet:
            self._console.print(f"manyhands: {text}", markup=False, soft_wrap=True)

    def printed(self, who: str, line: str) -> None:
        """A worker printed a line."""
        text = f"[{who}] {line}"
        self._write(text)
        self._console.print(text, markup=False, soft_wrap=True)

    def logged(self, text: str) -> None:
        """Write something to the log alone."""
        self._write(text)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._log.close()

    def _write(self, text: str) -> None:
        try:
            self._log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        except OSError:
            pass  # a full disk: it is on the terminal, and the journals say that the disk is full


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
