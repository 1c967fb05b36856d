#!/bin/bash
# usage: lint.sh format|tidy|cppcheck BUILD    What can be said of the C sources without running them.
# BUILD holds compile_commands.json.  Exit status 0: nothing to say; 77: the tool is not installed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$2
case $1 in
format) tool=clang-format ;;
tidy) tool=clang-tidy ;;
*) tool=$1 ;;
esac
command -v "$tool" >/dev/null || {
    echo "skipped: no $tool"
    exit 77
}
mapfile -t sources < <(git ls-files '*.c' '*.h')

case $1 in
format)
    clang-format --dry-run -Werror "${sources[@]}"
    ;;
tidy)
    # Only what is built, since the flags come from the build; and not the tests, which take it many minutes.
    python3 -c '
import json, os, sys
root = os.getcwd() + "/"
files = {entry["file"] for entry in json.load(open(sys.argv[1]))}
print("\n".join(sorted(f for f in files if f.startswith(tuple(root + folder for folder in ("hook/", "store/", "report/", "examples/"))))))
' "$build/compile_commands.json" | xargs -P2 -n1 clang-tidy -p "$build" --quiet 2> >(grep -v 'warnings\? generated' >&2)
    ;;
cppcheck)
    # Not the tests: it does not know that cmocka's assertions do not come back.
    mapfile -t sources < <(git ls-files 'hook/*.c' 'store/*.c' 'report/*.c' 'examples/*.c')
    cppcheck --quiet --inline-suppr --enable=warning,performance,portability --std=c11 --error-exitcode=1 -j2 \
        -Iinclude -I. --suppressions-list=tests/cppcheck.suppressions "${sources[@]}"
    ;;
*)
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
