"""Many jobs on one cluster: who gets which slots (`policies/`), tried on imagined clusters (`simulator/`)."""

from manyhands.jobs.state import Decision, Jobs, Move, Pack, Pause, Resize, Start, State

__all__ = ["Decision", "Jobs", "Move", "Pack", "Pause", "Resize", "Start", "State"]
