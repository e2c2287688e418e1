#!/usr/bin/env bash
# The whole pipeline of one trial: dense twin, rounds of points, test, evaluation, choice.
#
#   ./gco.sh                                    on sample data that it makes itself
#   ./gco.sh mytrial --data_root D --trainset DUTS-TR --testsets ECSSD+PASCAL-S
#   ./gco.sh mytrial --oracle human --data_root D --trainset MYPICS     people answer, in a browser
#
# Every field of config.py is a flag; --help explains them. Interrupted, the same command goes on
# where it stopped. GCO_PYTHON names an interpreter to use instead of the environment in .venv.
# Several GPUs share a trial (CUDA_VISIBLE_DEVICES chooses). SIGTERM or SIGUSR1: it saves, and ends
# with status 75.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/requirements.txt" running
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# torchrun gives its processes 30 s to save; the cluster gives us two minutes.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-110}"

source "$ROOT/utils/signals.sh"

# Leave with the status of what failed or was asked to stop.
leave() { # status
    local status="$1"
    if [ "$stop_signal" = INT ]; then exit 130; fi
    if [ -n "$stop_signal" ]; then
        case "$status" in
            138 | 143) status=$STOPPED ;; # by the signal, before it could see to it
            1) if [ "${processes:-1}" -gt 1 ]; then status=$STOPPED; fi ;; # torchrun says no more
        esac
    fi
    if [ "$status" = "$WAITING" ]; then
        echo "when they are answered, the same command goes on"
        exit 0
    fi
    if [ "$status" = 137 ]; then
        echo "error: a stage was killed from outside (by the system, where memory ran out):" \
            "the same command goes on from here" >&2
    fi
    if [ "$status" = "$STOPPED" ]; then
        echo "stopped by SIG${stop_signal:-TERM}: the same command goes on from here" >&2
    fi
    exit "$status"
}

stage() {
    if [ -n "$stop_signal" ]; then leave "$STOPPED"; fi
    run_child "$PYTHON" "$@" || leave $?
}

# A stage of which each GPU of the trial gets a process.
parallel_stage() {
    if [ "$processes" -gt 1 ]; then
        stage -m torch.distributed.run --standalone --nproc_per_node "$processes" "$@"
    else
        stage "$@"
    fi
}

if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    set -- --trial "$@"
fi
for argument in "$@"; do
    if [ "$argument" = "--help" ] || [ "$argument" = "-h" ]; then
        sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        "$PYTHON" "$ROOT/config.py" --help
        exit 0
    fi
done

# From here on the trial's own config.json holds the settings.
plan="$("$PYTHON" "$ROOT/config.py" "$@" --save --print trial runs run_folder data_root trainset \
    testsets round_count trained_rounds with_dense random_arm sample processes oracle)" || leave $?
{ IFS= read -r trial; IFS= read -r runs; IFS= read -r run; IFS= read -r data_root
  IFS= read -r trainset; IFS= read -r testsets; read -r round_count; read -r trained
  read -r with_dense; read -r random_arm; read -r sample; read -r processes; read -r oracle
} <<< "$plan"
settings=(--trial "$trial" "--runs=$runs")

if [ "$sample" = 1 ]; then
    stage -m datasets.sample "--out=$data_root"
fi
check=("--data_root=$data_root" "--trainset=$trainset")
if [ -n "$testsets" ]; then check+=("--testsets=$testsets"); fi
if [ "$oracle" = human ] && [ "$with_dense" = 0 ]; then check+=(--no-train-masks); fi
if [ "$(cat "$run/data_checked" 2> /dev/null)" != "${check[*]}" ]; then
    stage -m datasets.check "${check[@]}" "--run_folder=$run"
    echo "${check[*]}" > "$run/data_checked" || leave 2
fi

one_round() { # arm round
    parallel_stage -m active_learning "${settings[@]}" --arm "$1" --round "$2"
    # Several processes only choose: a person takes longer than they wait for each other.
    if [ "$oracle" = human ] && [ "$processes" -gt 1 ]; then
        stage -m active_learning "${settings[@]}" --arm "$1" --round "$2"
    fi
    if [[ " $trained " == *" $2 "* ]]; then
        parallel_stage "$ROOT/train.py" "${settings[@]}" --arm "$1" --round "$2"
    fi
}

# Round 0 comes first: it also asks about the validation images, which every arm is compared on.
one_round points 0
if [ "$with_dense" = 1 ]; then
    parallel_stage "$ROOT/train.py" "${settings[@]}" --arm dense
fi
for ((round = 1; round < round_count; round++)); do
    one_round points "$round"
    if [ "$random_arm" = 1 ]; then
        one_round random "$round"
    fi
done
parallel_stage "$ROOT/test.py" "${settings[@]}"
stage "$ROOT/evaluate.py" "${settings[@]}"
echo
stage "$ROOT/select_best.py" "${settings[@]}"
stage -m active_learning.report "${settings[@]}"
printf 'scores: %s, TensorBoard: tensorboard --logdir %q\n' "$run/scores.csv" "$run"
if [ "$sample" = 1 ]; then
    echo "next, on your own pictures (images/<SET>/*.jpg with gts/<SET>/*.png):"
    echo "  ./gco.sh mytrial --data_root FOLDER --trainset SET --testsets OTHERSET"
else
    echo "next, maps of any folder of pictures:"
    best="$run/round_$(printf %02d $((round_count - 1)))/checkpoints/best.pth"
    printf '  %q %q --input FOLDER --checkpoint %q --output MAPS\n' "$PYTHON" "$ROOT/test.py" "$best"
fi
