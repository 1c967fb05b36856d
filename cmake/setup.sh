# What the demo and the tests need, for `source`: system packages, private virtual environments, builds.
#
# Meant for Debian 12; elsewhere it says what is missing and stops.  Nothing is installed that is there already, and
# nothing outside the virtual environments but system packages (as root, or through sudo).
# NNMEM_VENVS: where the virtual environments live (default: the root of the checkout).

set -euo pipefail
NNMEM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NNMEM_VENVS=${NNMEM_VENVS:-$NNMEM_ROOT}
export NNMEM_VENVS

say() {
    printf '== %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# need_packages PACKAGE...: Debian packages.
need_packages() {
    local missing=() package as_root=()
    command -v apt-get >/dev/null || {
        say "no apt-get here: this takes for granted that there are (Debian's names) $*"
        return 0
    }
    for package in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || fail "neither root nor sudo; have somebody run: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
}

# need_venv NAME REQUIREMENT...: $NNMEM_VENVS/.venv-NAME with just these versions; one that is complete is used again.
need_venv() {
    local venv=$NNMEM_VENVS/.venv-$1 wanted
    shift
    wanted="$(python3 --version) $*"
    if [[ -x $venv/bin/python && $(cat "$venv/complete" 2>/dev/null) == "$wanted" ]]; then
        return 0
    fi
    python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' ||
        fail "$(python3 --version) is here, 3.10 to 3.12 are understood (Debian 12 has 3.11); put another python3 first in PATH"
    say "making $venv with $*"
    rm -f "$venv/complete"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
    printf '%s\n' "$wanted" >"$venv/complete"
}

# need_more NAME REQUIREMENT...: these too in $NNMEM_VENVS/.venv-NAME, which is there.
need_more() {
    local venv=$NNMEM_VENVS/.venv-$1
    shift
    [[ $(cat "$venv/complete.more" 2>/dev/null) == "$*" ]] && return 0
    say "adding $* to $venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
    printf '%s\n' "$*" >"$venv/complete.more"
}

# need_build PRESET: configured and built, in build/PRESET.
need_build() {
    say "building $1"
    cmake -S "$NNMEM_ROOT" --preset "$1" >/dev/null
    cmake --build "$NNMEM_ROOT/build/$1"
}

need_build_packages() {
    need_packages build-essential cmake ninja-build pkg-config libsqlite3-dev libjansson-dev libunwind-dev libdw-dev \
        libcmocka-dev python3 python3-venv sqlite3 "$@"
}

# The environment of the examples, and of most tests.
need_torch() {
    need_venv 2.13.0 torch==2.13.0 numpy scikit-learn pytest
}

# PyTorch 1.13.1, which Debian 12 has as a package of its own, for the system's Python.
need_older_torch() {
    need_packages python3-torch python3-numpy
}
