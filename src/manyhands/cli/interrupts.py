"""Whether Ctrl-C ends what a person starts."""

from __future__ import annotations

import os
import signal
import sys


def tell_how_to_end() -> None:
    """Say how to end this process where Ctrl-C may not: a shell has what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        print(
            f"manyhands: started in the background, where Ctrl-C is ignored; end it with `kill {os.getpid()}`",
            file=sys.stderr,
            flush=True,
        )
