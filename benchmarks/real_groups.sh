#!/usr/bin/env bash
# Co-salient groups of real photographs, with masks and with points, small enough for two CPU cores
# (about 40 minutes): a network that relates the images of a group beside one that does not.
#
#   benchmarks/real_groups.sh DATA_ROOT MOBILENET_WEIGHTS [more flags of gco.sh]
#
# DATA_ROOT holds the sets that benchmarks/README.md describes.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
common=(--data_root "$1" --trainset PASCAL-TR --testsets PASCAL-TE --backbone mobilenet_v2
    --backbone_weights "$2" --size 128 --batch_size 16 --epochs 8 --rounds 2)
shift 2
"$ROOT/gco.sh" real_groups_gam "${common[@]}" --grouped --relation gam --classify 0.1 "$@"
"$ROOT/gco.sh" real_groups_none "${common[@]}" "$@"
