"""The parts of benchmarks/pipelines.py."""
