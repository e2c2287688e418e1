#!/usr/bin/env bash
# The whole pipeline of one trial: dense twin, rounds of points, test, evaluation, choice.
#
#   ./gco.sh                                    on sample data that it makes itself
#   ./gco.sh mytrial --data_root D --trainset DUTS-TR --testsets ECSSD+PASCAL-S
#
# Every field of config.py is a flag; --help explains them. Interrupted, the same command goes on
# where it stopped. GCO_PYTHON names an interpreter to use instead of the environment in .venv.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/requirements.txt" running
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

stage() {
    "$PYTHON" "$@"
}

if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    set -- --trial "$@"
fi
for argument in "$@"; do
    if [ "$argument" = "--help" ] || [ "$argument" = "-h" ]; then
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        stage "$ROOT/config.py" --help
        exit 0
    fi
done

# From here on the trial's own config.json holds the settings.
plan="$(stage "$ROOT/config.py" "$@" --save \
    --print trial runs run_folder data_root trainset testsets rounds with_dense with_random sample)"
{ read -r trial; read -r runs; read -r run; read -r data_root; read -r trainset; read -r testsets
  read -r rounds; read -r with_dense; read -r with_random; read -r sample; } <<< "$plan"
settings=(--trial "$trial" --runs "$runs")

if [ "$sample" = 1 ]; then
    stage -m datasets.sample --out "$data_root"
fi
check=(--data_root "$data_root" --trainset "$trainset")
if [ -n "$testsets" ]; then check+=(--testsets "$testsets"); fi
if [ "$(cat "$run/data_checked" 2> /dev/null)" != "${check[*]}" ]; then
    stage -m datasets.check "${check[@]}"
    echo "${check[*]}" > "$run/data_checked"
fi

one_round() { # arm round
    stage -m active_learning "${settings[@]}" --arm "$1" --round "$2"
    stage "$ROOT/train.py" "${settings[@]}" --arm "$1" --round "$2"
}

# Round 0 comes first: it also asks about the validation images, which every arm is compared on.
one_round points 0
if [ "$with_dense" = 1 ]; then
    stage "$ROOT/train.py" "${settings[@]}" --arm dense
fi
for ((round = 1; round < rounds; round++)); do
    one_round points "$round"
    if [ "$with_random" = 1 ]; then
        one_round random "$round"
    fi
done
stage "$ROOT/test.py" "${settings[@]}"
stage "$ROOT/evaluate.py" "${settings[@]}"
echo
stage "$ROOT/select_best.py" "${settings[@]}"
printf 'scores: %s, TensorBoard: tensorboard --logdir %q\n' "$run/scores.csv" "$run"
if [ "$sample" = 1 ]; then
    echo "next, on your own pictures (images/<SET>/*.jpg with gts/<SET>/*.png):"
    echo "  ./gco.sh mytrial --data_root FOLDER --trainset SET --testsets OTHERSET"
else
    echo "next, maps of any folder of pictures:"
    best="$run/round_$(printf %02d $((rounds - 1)))/checkpoints/best.pth"
    printf '  %q %q --input FOLDER --checkpoint %q --output MAPS\n' "$PYTHON" "$ROOT/test.py" "$best"
fi
