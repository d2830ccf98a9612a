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
_BURST = 1000
_LINES_PER_SECOND = 50.0
"""Lines of workers that the terminal gets in the long run; the log gets all."""
_LEFT_OUT_SECONDS = 5.0


class _Terminal(Console):
    """A terminal that may go away, with who reads it: nobody then sees what is printed, and training goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def write(self, line: str) -> None:
        """Write a line as it is: a hundred times as fast as `print`, which draws around a progress bar."""
        if self.quiet:
            return
        try:
            try:
                self.file.write(f"{line}\n")
            except UnicodeEncodeError:
                self.file.write(line.encode("ascii", "backslashreplace").decode() + "\n")
            self.file.flush()
        except (OSError, ValueError):
            self.quiet = True


class _Rate:
    """How many lines of workers the terminal gets: many at once, but few for ever."""

    def __init__(self) -> None:
        self._left, self._at = float(_BURST), time.monotonic()
        self.left_out = 0
        self._told_at = 0.0

    def allows(self) -> bool:
        """Whether one more may be shown; counts it if not."""
        now = time.monotonic()
        self._left = min(float(_BURST), self._left + (now - self._at) * _LINES_PER_SECOND)
        self._at = now
        if self._left < 1:
            self.left_out += 1
            return False
        self._left -= 1
        return True

    def due(self) -> int:
        """How many were left out that nobody was told of yet, if it is time to tell."""
        if not self.left_out or time.monotonic() - self._told_at < _LEFT_OUT_SECONDS:
            return 0
        self._told_at = time.monotonic()
        return self.take()

    def take(self) -> int:
        """How many were left out that nobody was told of yet."""
        count, self.left_out = self.left_out, 0
        return count


class View:
    """Prints to the terminal and to the run's log.

    Args:
        log: `log.txt` of the run.
        quiet: print nothing but what goes wrong.
        silent: print nothing at all.
    """

    def __init__(self, log: Path, quiet: bool = False, silent: bool = False) -> None:
        self._console = _Terminal(stderr=True, highlight=False, quiet=silent)
        self._quiet, self._path = quiet, log
        self._log = log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        self._shown_at = 0.0
        self._recent: list[tuple[float, int]] = []
        self._progress: Progress | None = None
        self._task: Any = None
        self._rate = _Rate()
        self._second, self._clock_text = 0, ""

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
        self._tell_left_out(self._rate.due())
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
        self._tell_left_out(self._rate.due())
        if not self._rate.allows():
            return
        if self._progress is None:
            self._console.write(text)
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def _tell_left_out(self, count: int) -> None:
        if count:
            text = f"manyhands: {count:,} lines that workers printed are left out here; {self._path} has them."
            self._console.print(text, markup=False, soft_wrap=True)

    def logged(self, text: str) -> None:
        """Write something to the log alone."""
        self._write(text)

    def close(self) -> None:
        self._tell_left_out(self._rate.take())
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._log.close()

    def _write(self, text: str) -> None:
        if (second := int(time.time())) != self._second:  # reading the calendar takes as long as writing the line
            self._second, self._clock_text = second, time.strftime("%H:%M:%S")
        try:
            self._log.write(f"{self._clock_text} {text}\n")
        except OSError:
            pass  # a full disk: it is on the terminal, and the journals say that the disk is full


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
