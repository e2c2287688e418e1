#!/usr/bin/env bash
# Install Slurm for tests/slurm (Debian or Ubuntu, as root). Elsewhere it says why not and leaves
# with 0: those tests are skipped then.
set -euo pipefail

if command -v slurmctld > /dev/null && command -v munged > /dev/null; then exit; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "Slurm is not installed here (that takes root and apt-get): its tests are skipped"
    exit
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -qq --no-install-recommends slurm-wlm munge)
"${install[@]}" > /dev/null 2>&1 || { apt-get update -qq && "${install[@]}"; } > /dev/null 2>&1 ||
    echo "the packages slurm-wlm and munge are out of reach: the tests of Slurm are skipped"
