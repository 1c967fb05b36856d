#!/bin/bash
# From a fresh clone to a report: install what is missing, build, train a small real network, show where its memory went.
#
# usage: bash examples/demo.sh
# Writes below the checkout only: .venv-2.13.0, build/release and build/demo/run.db.
source "$(dirname "$0")/../cmake/setup.sh"

need_build_packages
need_torch
need_build release

mkdir -p "$NNMEM_ROOT/build/demo"
cd "$NNMEM_ROOT/build/demo"
say "training: LD_PRELOAD=$NNMEM_ROOT/build/release/lib/libnnmemhook.so python examples/digits.py"
LD_PRELOAD=$NNMEM_ROOT/build/release/lib/libnnmemhook.so NNMEM_OUT=run.db \
    "$NNMEM_VENVS/.venv-2.13.0/bin/python" "$NNMEM_ROOT/examples/digits.py"
say "nnmem-report build/demo/run.db"
"$NNMEM_ROOT/build/release/bin/nnmem-report" run.db
