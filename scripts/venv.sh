# Sourced by the scripts beside it. `need EXTRA…` leaves a virtual environment in .venv with this package, editable,
# and those extras; it installs only when something changed since, so the second run starts at once.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV_PYTHON=.venv/bin/python
FITS='import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

need() {
    local extra stamp now missing=()
    [ -x "$VENV_PYTHON" ] && "$VENV_PYTHON" -c 'import pip' 2>/dev/null || make_venv
    for extra in "$@"; do
        stamp=.venv/.has-$extra
        now=$(cksum <pyproject.toml)
        [ "$(cat "$stamp" 2>/dev/null)" = "$now" ] || missing+=("$extra")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local list
    list=$(IFS=, && echo "${missing[*]}")
    echo "installing mppool[$list] into .venv …" >&2
    # -qq: pip's warnings about a machine's package indexes are none of ours; its errors still show
    "$VENV_PYTHON" -m pip install -qq --no-input --disable-pip-version-check -e ".[$list]" >&2
    for extra in "${missing[@]}"; do echo "$now" >".venv/.has-$extra"; done
}

make_venv() {
    local python
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3.10 python3}; do
        if command -v "$python" >/dev/null && "$python" -c "$FITS" 2>/dev/null; then
            echo "making .venv with $("$python" --version) …" >&2
            rm -rf .venv
            "$python" -m venv .venv
            return
        fi
    done
    echo "no Python from 3.10 to 3.13 with the modules venv and ensurepip was found (tried: ${PYTHON:-PATH})." >&2
    echo "On Debian or Ubuntu: apt-get install python3-venv. Another one: PYTHON=/path/to/python $0" >&2
    exit 1
}
