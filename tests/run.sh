#!/bin/bash
# Everything that can be tested here: set-up, the demo, lint, and all tests in three builds.  Exit status 0: all passed.
#
# usage: bash tests/run.sh [--without-2.14] [--without-1.13] [--label REGEX]
#   --without-2.14   do without PyTorch 2.14.1 (5.5 GB on disk); the end-to-end tests then run on 2.13.0 alone
#   --without-1.13   do without PyTorch 1.13.1 (Debian's python3-torch, with what it needs): e2e.older is left out
#   --label REGEX    only tests with such a ctest label: lint, unit, property, preload, golden, e2e, sim, bench
source "$(dirname "$0")/../cmake/setup.sh"

with_214=1
with_113=1
label=.
while (($#)); do
    case $1 in
    --without-2.14) with_214= ;;
    --without-1.13) with_113= ;;
    --label)
        label=${2:?--label needs a regular expression}
        shift
        ;;
    *)
        sed -n '/^# usage/,/^source/{/^source/!s/^# \{0,1\}//p}' "$0" >&2
        exit 2
        ;;
    esac
    shift
done

need_build_packages clang-format clang-tidy cppcheck
# What people train with beside PyTorch itself: tests/e2e trains with them under the hook.
training=(lightning==2.6.6 transformers==5.24.0 accelerate==1.15.0)
need_torch
need_more 2.13.0 "${training[@]}"
export NNMEM_TEST_VERSIONS=2.13.0
if [[ $with_214 ]]; then
    need_venv 2.14.1 torch==2.14.1 torchvision==0.29.1 numpy
    need_more 2.14.1 "${training[@]}"
    NNMEM_TEST_VERSIONS+=" 2.14.1"
fi
if [[ $with_113 ]]; then
    need_older_torch
    NNMEM_TEST_VERSIONS+=" 1.13.1"
fi
for preset in release asan-ubsan tsan; do
    need_build "$preset"
done

status=0
if [[ $label == . ]]; then
    say "the demo"
    bash "$NNMEM_ROOT/examples/demo.sh" || status=1
fi

# Sanitized builds run what is linked with the sanitizers; real training runs need the real library.
for preset in release asan-ubsan tsan; do
    say "tests of build/$preset"
    ctest --test-dir "$NNMEM_ROOT/build/$preset" -L "$label" -j2 --output-on-failure --no-tests=ignore || status=1
done
exit $status
