#!/bin/bash
# usage: bench.sh [--short]    bench.py with the virtual environment that tests/run.sh makes (NNMEM_VENVS: where).
here=$(cd "$(dirname "$0")" && pwd)
export NNMEM_VENVS=${NNMEM_VENVS:-$(cd "$here/../.." && pwd)}
python=$NNMEM_VENVS/.venv-2.13.0/bin/python
[[ -x $python ]] || {
    echo "skipped: no $NNMEM_VENVS/.venv-2.13.0 with PyTorch; bash tests/run.sh makes it"
    exit 77
}
exec "$python" "$here/bench.py" "$@"
