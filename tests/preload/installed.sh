#!/bin/bash
# usage: installed.sh CMAKE FOLDER COMMAND...    Build and install for /usr, where a distribution may put libraries deeper
# than programs, and record COMMAND from the build tree and from the installed one, with a name relative to neither.
set -euo pipefail
cmake=$1 folder=$2
shift 2
source=$(cd "$(dirname "$0")/../.." && pwd)

"$cmake" -S "$source" -B "$folder/build" -DNNMEM_TESTS=OFF -DCMAKE_BUILD_TYPE=Debug -DCMAKE_INSTALL_PREFIX=/usr >/dev/null
"$cmake" --build "$folder/build" -j2 >/dev/null
rm -rf "$folder/root"
DESTDIR=$folder/root "$cmake" --install "$folder/build" >/dev/null

cd "$folder"
for file in bin/nnmem-{record,report,run} include/nnmem/nnmem.h share/man/man1/nnmem-{record,report,run}.1; do
    [[ -s root/usr/$file ]] || {
        echo "not installed: $file"
        exit 1
    }
done
for bin in build/bin root/usr/bin; do
    rm -f run.db
    status=0
    "$bin/nnmem-run" -o run.db "$@" || status=$?
    "$bin/nnmem-report" info run.db | grep -q "^  ended  *exit $status$" || {
        echo "$bin/nnmem-run has recorded nothing"
        exit 1
    }
done
