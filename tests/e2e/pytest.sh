#!/bin/bash
# usage: pytest.sh FILE...    Run end-to-end tests with the virtual environment that tests/run.sh makes.
#
# NNMEM_VENVS: where .venv-2.13.0 (and .venv-2.14.1) lie, default the root of the checkout.
# NNMEM_TEST_VERSIONS: the PyTorch versions that must be there, "2.13.0 2.14.1 1.13.1"; unset: those that are there.  1.13.1 is
# Debian's python3-torch and only for test_older.py, which fails without it unless this variable leaves it out.
# NNMEM_BUILD: the build that is tested, default build/release.
# NNMEM_PYTEST_PYTHON: the Python with pytest, default that of .venv-2.13.0.
root=$(cd "$(dirname "$0")/../.." && pwd)
venvs=${NNMEM_VENVS:-$root}
for version in ${NNMEM_TEST_VERSIONS:-}; do
    [[ $version == 1.13.1 || -x $venvs/.venv-$version/bin/python ]] || {
        echo "no $venvs/.venv-$version"
        exit 1
    }
done
python=${NNMEM_PYTEST_PYTHON:-$venvs/.venv-2.13.0/bin/python}
[[ -x $python ]] || {
    echo "skipped: no $python with PyTorch and pytest; bash tests/run.sh makes it"
    exit 77
}
if [[ $# == 1 && ${1##*/} == test_older.py && -n ${NNMEM_TEST_VERSIONS:-} && " $NNMEM_TEST_VERSIONS " != *" 1.13.1 "* ]]; then
    echo "skipped: NNMEM_TEST_VERSIONS leaves out 1.13.1"
    exit 77
fi
export NNMEM_VENVS=$venvs
cd "$root/tests/e2e" && exec "$python" -m pytest -q -p no:cacheprovider -o tmp_path_retention_policy=failed "$@"
