#!/bin/bash
# usage: bench.sh [--short | --instructions [LOAD STEPS]...]
# bench.py, or instructions.py, with the virtual environment that tests/run.sh makes (NNMEM_VENVS: where).
here=$(cd "$(dirname "$0")" && pwd)
export NNMEM_VENVS=${NNMEM_VENVS:-$(cd "$here/../.." && pwd)}
python=$NNMEM_VENVS/.venv-2.13.0/bin/python
[[ -x $python ]] || {
    echo "skipped: no $NNMEM_VENVS/.venv-2.13.0 with PyTorch; bash tests/run.sh makes it"
    exit 77
}
if [[ ${1:-} == --instructions ]]; then
    shift
    exec "$python" "$here/instructions.py" "$@"
fi
exec "$python" "$here/bench.py" "$@"
