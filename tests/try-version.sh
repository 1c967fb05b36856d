#!/bin/bash
# Try a version of PyTorch that the tests do not cover: a throw-away environment, and the tests that depend on the version.
#
# usage: bash tests/try-version.sh [--keep] VERSION FOLDER [PYTEST-OPTION...]
#   VERSION   as pip knows it: 2.8.0, 2.10.0+cpu; `pip index versions torch` lists them
#   FOLDER    a new folder, made and in the end deleted again; PyPI's builds for Linux take up to 8 GB
#   --keep    leave the folder; the next try with it installs nothing
#
# build/release is what is tested.  PIP_INDEX_URL chooses another index, as always with pip.  Figures that are known to differ
# from version to version stand in tests/e2e/expected.py; one that is not named there is expected to be like the newest.
# Exit status: pytest's, or that of what failed before; 2 for wrong arguments.
source "$(dirname "$0")/../cmake/setup.sh"

usage() {
    sed -n '/^# usage/,/^source/{/^source/!s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

keep=
if [[ ${1:-} == --keep ]]; then
    keep=1
    shift
fi
(($# >= 2)) && [[ $1 != -* && $2 != -* ]] || usage
version=$1
name=${version%%+*} # what tests call it: torch.__version__ without the build
folder=$2
shift 2

[[ -f $NNMEM_ROOT/build/release/lib/libnnmemhook.so ]] || {
    echo "no build/release: cmake --preset release && cmake --build --preset release" >&2
    exit 2
}
# Only what this script has made is deleted.
if [[ -e $folder && ! -e $folder/made-by-try-version ]]; then
    echo "$folder is there already, and not from here" >&2
    exit 2
fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
touch "$folder/made-by-try-version"

remove() {
    [[ $keep ]] || rm -rf "${folder:?}"
}
trap remove EXIT

export NNMEM_VENVS=$folder
need_venv "$name" "torch==$version" numpy scikit-learn pytest
"$folder/.venv-$name/bin/python" -c 'import torch; print("PyTorch", torch.__version__)'

export NNMEM_TEST_VERSIONS=$name NNMEM_PYTEST_PYTHON=$folder/.venv-$name/bin/python NNMEM_BUILD=$NNMEM_ROOT/build/release
bash "$NNMEM_ROOT/tests/e2e/pytest.sh" test_witness.py test_exact.py test_tags.py test_styles_modules.py test_threads.py \
    test_stacks.py test_operations.py ../adapter/test_adapter.py "$@"
