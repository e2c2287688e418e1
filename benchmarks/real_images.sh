#!/usr/bin/env bash
# The whole pipeline on real photographs, small enough for two CPU cores (about an hour):
#
#   benchmarks/real_images.sh DATA_ROOT MOBILENET_WEIGHTS [more flags of gco.sh]
#
# DATA_ROOT holds the sets that benchmarks/label_efficiency/README.md describes.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
data="$1" weights="$2"
shift 2
exec "$ROOT/gco.sh" real_images --data_root "$data" --trainset REAL-TR \
    --testsets SED1+PASCAL-TE+FASHION-TE+BUTTERFLY-TE --backbone mobilenet_v2 \
    --backbone_weights "$weights" --size 128 --batch_size 8 --epochs 8 --rounds 3 --with_random "$@"
