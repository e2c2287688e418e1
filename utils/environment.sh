# Sourced by gco.sh and tests/run.sh: sets PYTHON to an interpreter that has what is needed.
#
# use_environment <requirements file> <what it is for>
#   GCO_PYTHON, when set, is taken as it is (a conda or module environment, say). Otherwise .venv in
#   the repository is made on first use, and brought up to date when a requirements file changes.

use_environment() {
    local requirements="$1" purpose="$2" venv="$ROOT/.venv" stamp wanted base
    if [ -n "${GCO_PYTHON:-}" ]; then
        PYTHON="$GCO_PYTHON"
        return
    fi
    PYTHON="$venv/bin/python"
    stamp="$venv/.installed-$purpose"
    wanted="$(cat "$ROOT/requirements.txt" "$requirements" | cksum)"
    if is_installed; then return; fi
    base="$(find_python)"
    # Two that begin together would install into it at once: the second one waits for the first.
    mkdir -p "$venv"
    exec 9> "$venv/.lock"
    if command -v flock > /dev/null; then flock 9; fi
    if is_installed; then
        exec 9>&-
        return
    fi
    echo "setting up the environment in $venv (once; it downloads some gigabytes)" >&2
    "$base" -m venv "$venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
    "$PYTHON" -c "import torch, torchvision, cv2; cv2.ximgproc"
    echo "$wanted" > "$stamp"
    exec 9>&-
}

is_installed() { # whether what use_environment wants is there
    [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: Python 3.10 or newer is needed, with its venv module" >&2
    exit 2
}
