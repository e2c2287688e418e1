#!/usr/bin/env bash
# Set up (once) and run every test: style first, then the tests, three at a time: many of them wait.
# Arguments go to pytest: tests/run.sh tests/test_config.py -k flags
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/tests/requirements.txt" testing
cd "$ROOT"
# One thread a process: two processes with two threads each would wait for each other.
export OMP_NUM_THREADS=1 MPLBACKEND=Agg

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest -n 3 --dist worksteal "$@"
