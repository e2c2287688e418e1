#!/usr/bin/env bash
# All that needs a GPU, in one command of at most nine minutes; smaller on a CPU:
#
#   benchmarks/gpu.sh --data_root D --trainset T --testsets A+B --backbone resnet50 \
#       --backbone_weights FILE --out runs/gpu [--minutes 9] [any flag of gco.sh]
#
# Nothing is installed: GCO_PYTHON names the interpreter, else it is the `python3` of the PATH. What
# is measured, and what is skipped for want of time: benchmarks/gpu.py.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec "${GCO_PYTHON:-python3}" "$ROOT/benchmarks/gpu.py" "$@"
