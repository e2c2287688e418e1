#!/usr/bin/env bash
# End the cluster that tests/slurm/up.sh FOLDER started, and its jobs: tests/slurm/down.sh FOLDER
set -uo pipefail

export SLURM_CONF="$1/slurm.conf"
jobs="$(squeue --noheader --format=%A 2> /dev/null | sort -u)"
# shellcheck disable=SC2086
if [ -n "$jobs" ]; then scancel $jobs; fi
for _ in $(seq 50); do
    if [ -z "$(squeue --noheader 2> /dev/null)" ]; then break; fi
    sleep 0.2
done
for name in slurmd slurmctld munged; do
    if pid="$(cat "$1/run/$name.pid" 2> /dev/null)"; then kill "$pid" 2> /dev/null; fi
done
