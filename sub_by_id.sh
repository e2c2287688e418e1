#!/usr/bin/env bash
# Many trials: t10 .. t14, the seed of each its ID, as a Slurm job array; a job after them chooses.
#
#   ./sub_by_id.sh 10 5 --data_root D --trainset DUTS-TR --testsets ECSSD     submit t10 .. t14
#   ./sub_by_id.sh 10 5 --dry-run ...    print both job scripts, submit nothing
#   ./sub_by_id.sh 10 5 --local 2 ...    without Slurm: run them here, two at a time, and choose
#   ./sub_by_id.sh --status [10 5]       how far they are (--runs R: in another folder)
#   ./sub_by_id.sh --choose 10 5         choose among the finished ones, as the last job does
#
# What a trial gets: --gres (default gpu:1; with gpu:4 four GPUs share it; or none), --time (default
# 24:00:00), --partition, --cpus and --mem; all else by sbatch's own environment variables
# (SBATCH_ACCOUNT, SBATCH_QOS, ...). Every other flag goes to gco.sh. Trials that are queued or
# running are refused, and sets that are not to be seen from here (--force submits all the same).
# Two minutes before its time is up, or when it has to make room, a trial saves, and its job is
# queued again. One that failed goes on when the same command is given again.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
USAGE="give the first ID and the number of trials: ./sub_by_id.sh 10 5 [--dry-run | --local N] ..."

fail() {
    echo "error: $1" >&2
    exit 2
}

how=submit force="" first="" count="" runs=runs at_once="" flags=() given=()
gres="${SBATCH_GRES:-gpu:1}" time="${SBATCH_TIMELIMIT:-24:00:00}" partition="" cpus="" mem=""

go_about_it() { # how: unless something else was asked for
    [ "$how" = submit ] || [ "$how" = "$1" ] ||
        fail "give one of --status, --choose, --dry-run and --local"
    how="$1"
}

read_arguments() {
    local name value
    case "${1:-}" in --status | --choose) how="${1#--}"; shift ;; esac
    if [[ "${1:-}" =~ ^[0-9]+$ && "${2:-}" =~ ^0*[1-9][0-9]*$ ]]; then
        first=$((10#$1)) count=$((10#$2)) # 010 is ten, not octal
        shift 2
    elif [ "$how" != status ] || [[ "${1:-}" =~ ^[0-9] ]]; then
        fail "$USAGE"
    fi
    while [ $# -gt 0 ]; do
        name="${1%%=*}" value="${1#*=}"
        given+=("$name")
        case "$name" in
            --local | --gres | --time | --partition | --cpus | --mem | --runs)
                if [ "$1" = "$name" ]; then
                    [ $# -ge 2 ] || fail "$name needs a value"
                    value="$2"
                    shift
                fi ;;
        esac
        case "$name" in
            --dry-run) go_about_it print ;;
            --local) go_about_it local; at_once="$value" ;;
            --status | --choose) fail "$name stands before the IDs" ;;
            --force) force=1 ;;
            --gres) gres="$value" ;;
            --time) time="$value" ;;
            --partition) partition="$value" ;;
            --cpus) cpus="$value" ;;
            --mem) mem="$value" ;;
            --runs) runs="$value" flags+=(--runs "$value") ;;
            --seed | --trial) fail "--seed and --trial follow from the ID of each trial" ;;
            *) flags+=("$1") ;;
        esac
        shift
    done
}

refuse_useless() { # else a slip of the hand would change nothing, in silence
    local name
    for name in ${given[@]+"${given[@]}"}; do
        case "$how $name" in
            "status --runs" | "choose --runs") ;;
            status\ * | choose\ *) fail "$name means nothing with --$how, which takes --runs alone" ;;
            local\ --gres | local\ --time | local\ --partition | local\ --cpus | local\ --mem)
                fail "$name is what Slurm gives: leave it out with --local" ;;
        esac
    done
}

resources() { # the lines of a job script that tell what a trial gets
    local line
    if [ "$gres" = none ]; then gres=""; fi
    for line in "gres=$gres" "time=$time" "partition=$partition" "cpus-per-task=$cpus" \
        "mem=$mem"; do
        if [ "${line#*=}" ]; then echo "#SBATCH --$line"; fi
    done
}

quoted() {
    if [ $# -gt 0 ]; then printf ' %q' "$@"; fi
}

quoted_flags() {
    quoted ${flags[@]+"${flags[@]}"}
}

trials_script() {
    cat << END
#!/usr/bin/env bash
#SBATCH --job-name=gco
#SBATCH --array=$first-$((first + count - 1))
$(resources)
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.log
cd$(quoted "$PWD") || exit
source$(quoted "$ROOT/utils/signals.sh")
id="\$SLURM_ARRAY_TASK_ID" status=0
run_child$(quoted "$ROOT/gco.sh") "t\$id" --seed "\$id"$(quoted_flags) || status=\$?
if [ "\$status" = "\$STOPPED" ]; then
    case "\$(scontrol show job "\${SLURM_ARRAY_JOB_ID}_\$id")" in
        *JobState=RUNNING*) scontrol requeue "\${SLURM_ARRAY_JOB_ID}_\$id" ;;
        *) echo "ended by scancel or by Slurm: not queued again" >&2 ;;
    esac
fi
exit "\$status"
END
}

choice_script() { # job of the trials
    cat << END
#!/usr/bin/env bash
#SBATCH --job-name=gco-choice
#SBATCH --dependency=afterany:$1
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --time=1:00:00${partition:+
#SBATCH --partition=$partition}
#SBATCH --output=slurm-%j_choice.log
cd$(quoted "$PWD") || exit
exec$(quoted "$ROOT/sub_by_id.sh" --choose "$first" "$count" --runs "$runs")
END
}

submit() { # script: print the job's number
    local job
    # In the folder of the trials: jobs are known by it, and logs go there.
    job="$(cd "$runs" && sbatch --parsable <<< "$1")" || return
    echo "${job%%;*}"
}

submit_all() {
    local job choice
    # These would undo lines of the scripts, or keep sbatch from printing the job's number at once.
    unset SBATCH_ARRAY_INX SBATCH_ERROR SBATCH_GRES SBATCH_JOB_NAME SBATCH_NO_REQUEUE \
        SBATCH_OPEN_MODE SBATCH_OUTPUT SBATCH_SIGNAL SBATCH_TIMELIMIT SBATCH_WAIT \
        ${partition:+SBATCH_PARTITION} \
        ${mem:+SBATCH_MEM_PER_NODE SBATCH_MEM_PER_CPU SBATCH_MEM_PER_GPU}
    mkdir -p "$runs"
    if [ -z "$force" ]; then
        "$PYTHON" -m utils.trial_status --refuse_active --ids "$first" "$count" --runs "$runs"
    fi
    job="$(submit "$(trials_script)")"
    echo "$trials: job $job, logs in $runs/slurm-${job}_<ID>.log"
    choice="$(submit "$(choice_script "$job")")" || fail \
        "job $job runs, but nothing chooses after it: give ./sub_by_id.sh --choose $first $count"
    echo "choice: job $choice, after them, log in $runs/slurm-${choice}_choice.log"
    echo "how far they are: ./sub_by_id.sh --status $first $count$(quoted --runs "$runs")"
}

run_here() {
    local status=0
    [[ "$at_once" =~ ^[1-9][0-9]*$ ]] || fail "--local $at_once: tell how many trials at a time"
    mkdir -p "$runs"
    source "$ROOT/utils/signals.sh"
    run_child "$PYTHON" -m utils.local_trials --ids "$first" "$count" --at_once "$at_once" \
        --runs "$runs" -- ${flags[@]+"${flags[@]}"} || status=$?
    case "$status" in 0 | 1) ;; *) exit "$status" ;; esac # stopped: there is nothing to choose yet
    choose || status=$?
    exit "$status"
}

choose() {
    local status=0 finished
    finished="$("$PYTHON" -m utils.trial_status --finished --ids "$first" "$count" \
        --runs "$runs")" || status=$?
    [ "$finished" ] || fail "$trials: none is finished: see ./sub_by_id.sh --status $first $count"
    # One word a line: trials are named t<ID>.
    # shellcheck disable=SC2086
    "$PYTHON" "$ROOT/select_best.py" --runs "$runs" --out "$runs/choice-$first-$last" \
        --trials $finished || status=$?
    return "$status"
}

case " $* " in
    *" --help "* | *" -h "*) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
esac
read_arguments "$@"
refuse_useless
last=$((${first:-0} + ${count:-1} - 1))
trials="t$first .. t$last"

if [ "$how" = print ]; then
    trials_script
    echo
    choice_script "<job of the trials>"
    exit
fi
if [ "$how" = submit ]; then
    command -v sbatch > /dev/null || fail "sbatch is not here: use --local N, or go to the cluster"
fi
source "$ROOT/utils/environment.sh"
if [ "$how" = status ]; then # needs no package
    PYTHON="${GCO_PYTHON:-$ROOT/.venv/bin/python}"
    command -v "$PYTHON" > /dev/null || PYTHON="$(find_python)"
    ids=(${first:+--ids "$first" "$count"})
    PYTHONPATH="$ROOT" exec "$PYTHON" -m utils.trial_status --runs "$runs" ${ids[@]+"${ids[@]}"}
fi
# Once, here: jobs start together and would all set it up at the same time.
use_environment "$ROOT/requirements.txt" running
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ "$how" = choose ]; then
    choose
    exit
fi
# A flag that is wrong, or a set that is missing, is told now, not by every trial.
if [ "$force" ]; then check=(); else check=(--check); fi
"$PYTHON" "$ROOT/config.py" ${check[@]+"${check[@]}"} --trial "t$first" --seed "$first" \
    ${flags[@]+"${flags[@]}"} > /dev/null
if [ "$how" = local ]; then run_here; fi
submit_all
