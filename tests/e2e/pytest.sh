#!/bin/bash
# usage: pytest.sh FILE...    Run end-to-end tests with the virtual environment that tests/run.sh makes.
#
# NNMEM_VENVS: where .venv-2.13.0 (and .venv-2.14.1) lie, default the root of the checkout.
# NNMEM_TEST_VERSIONS: the PyTorch versions that must be there, "2.13.0 2.14.1"; unset: those that are there.
# NNMEM_BUILD: the build that is tested, default build/release.
root=$(cd "$(dirname "$0")/../.." && pwd)
venvs=${NNMEM_VENVS:-$root}
for version in ${NNMEM_TEST_VERSIONS:-}; do
    [[ -x $venvs/.venv-$version/bin/python ]] || {
        echo "no $venvs/.venv-$version"
        exit 1
    }
done
python=$venvs/.venv-2.13.0/bin/python
[[ -x $python ]] || {
    echo "skipped: no $venvs/.venv-2.13.0 with PyTorch and pytest; bash tests/run.sh makes it"
    exit 77
}
export NNMEM_VENVS=$venvs
cd "$root/tests/e2e" && exec "$python" -m pytest -q -p no:cacheprovider -o tmp_path_retention_policy=failed "$@"
