"""The parts of `benchmarks/sync.py`: who trains, where, and how long until a stated loss."""
