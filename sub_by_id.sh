#!/usr/bin/env bash
# Submit trials to a Slurm cluster, one job a trial: trial t<ID> runs gco.sh with --seed <ID>.
#
#   ./sub_by_id.sh 10 5 --data_root D --trainset DUTS-TR --testsets ECSSD     trials t10 .. t14
#   ./sub_by_id.sh 10 5 --dry-run ...    print the job script, submit nothing
#   ./sub_by_id.sh 10 5 --local ...      run them here, one after another
#
# Every further flag goes to gco.sh. SBATCH_GRES (default gpu:1), SBATCH_TIME (default 24:00:00) and
# sbatch's own environment variables (SBATCH_PARTITION, SBATCH_ACCOUNT, ...) choose the resources.
# A trial that is stopped goes on where it was when the same command is given again.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
    echo "error: $1" >&2
    exit 2
}

case " $* " in
    *" --help "* | *" -h "*) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *" --seed"* | *" --trial"*) fail "--seed and --trial follow from the ID of each trial" ;;
esac
usage="give the first ID and the number of trials: ./sub_by_id.sh 10 5 [--dry-run | --local] ..."
[[ "${1:-}" =~ ^[0-9]+$ && "${2:-}" =~ ^[1-9][0-9]*$ ]] || fail "$usage"
first=$((10#$1)) # 010 is ten, not octal
last=$((first + $2 - 1)) how=submit
shift 2
case "${1:-}" in
    --dry-run) how=print; shift ;;
    --local) how=local; shift ;;
esac

if [ "$how" = local ]; then
    for ((id = first; id <= last; id++)); do
        "$ROOT/gco.sh" "t$id" --seed "$id" "$@"
    done
    exit
fi

flags=""
if [ $# -gt 0 ]; then flags="$(printf ' %q' "$@")"; fi
script="#!/usr/bin/env bash
#SBATCH --job-name=gco
#SBATCH --array=$first-$last
#SBATCH --gres=${SBATCH_GRES:-gpu:1}
#SBATCH --time=${SBATCH_TIME:-24:00:00}
#SBATCH --output=runs/slurm-%A_%a.log
#SBATCH --requeue
set -euo pipefail
exec ./gco.sh \"t\$SLURM_ARRAY_TASK_ID\" --seed \"\$SLURM_ARRAY_TASK_ID\"$flags"

if [ "$how" = print ]; then
    echo "$script"
    exit
fi
command -v sbatch > /dev/null || fail "sbatch is not here: use --local, or log in to the cluster"
# Once, here: the jobs of an array start together and would all set it up at the same time.
source "$ROOT/utils/environment.sh"
use_environment "$ROOT/requirements.txt" running
cd "$ROOT"
mkdir -p runs
sbatch <<< "$script"
