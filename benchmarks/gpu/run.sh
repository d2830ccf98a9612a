#!/bin/sh
# All GPU benchmarks, one after the other. Flags go to all: --quick, or --tiny --device cpu.
# PYTHON chooses the interpreter. The exit code is not 0 if any fails.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-.venv/bin/python}
code=0
"$python" benchmarks/gpu/same_weights.py "$@" || code=1
"$python" benchmarks/gpu/gpt124m.py "$@" || code=1
"$python" benchmarks/gpu/collectives.py "$@" || code=1
"$python" benchmarks/gpu/ticktock.py "$@" || code=1
exit $code
