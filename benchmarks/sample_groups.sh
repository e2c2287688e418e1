#!/usr/bin/env bash
# Co-salient object against distractor: a network that relates the images of a group beside one that
# does not, with masks and with points, on groups of the made sample data (over an hour on one core):
#
#   benchmarks/sample_groups.sh MOBILENET_WEIGHTS [more flags of gco.sh]
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/requirements.txt" running
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
weights="$1" data=data/sample_groups
shift
"$PYTHON" -m datasets.sample --out "$data" --train 1000 --test 200
common=(--data_root "$data" --trainset SAMPLE-CO-TR --testsets SAMPLE-CO-TE --backbone mobilenet_v2
    --backbone_weights "$weights" --backbone_lr 1 --size 96 --width 32 --crop 0.85 --batch_size 16
    --epochs 20 --rounds 2)
"$ROOT/gco.sh" groups_gam "${common[@]}" --grouped --relation gam --classify 0.1 "$@"
"$ROOT/gco.sh" groups_none "${common[@]}" "$@"
