"""Where the time goes: events, the recorder that measures them, and the trace they are read in."""

from manyhands.timeline.chrome import chrome_trace, read_chrome_trace, write_chrome_trace
from manyhands.timeline.event import PHASES, SELDOM, Event
from manyhands.timeline.recorder import Recorder, Span

__all__ = [
    "PHASES",
    "SELDOM",
    "Event",
    "Recorder",
    "Span",
    "chrome_trace",
    "read_chrome_trace",
    "write_chrome_trace",
]
