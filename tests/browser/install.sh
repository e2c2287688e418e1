#!/usr/bin/env bash
# Install Chromium and a font for tests/browser (Debian or Ubuntu, as root); Python's side of it is
# in tests/requirements.txt. Elsewhere it says why not and leaves with 0: those tests are skipped
# then, unless another Chromium is on the PATH or named by GCO_CHROMIUM.
set -euo pipefail

for name in "${GCO_CHROMIUM:-chromium}" chromium chromium-browser google-chrome; do
    if command -v "$name" > /dev/null; then exit; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "no Chromium here (installing it takes root and apt-get): the tests in it are skipped"
    exit
fi
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core)
"${install[@]}" > /dev/null 2>&1 || { apt-get update -qq && "${install[@]}"; } > /dev/null 2>&1 ||
    echo "the package chromium is out of reach: the tests in a browser are skipped"
