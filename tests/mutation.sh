#!/bin/bash
# usage: mutation.sh [--short] BUILD    Break each rule of mutation.txt by itself; a unit test of the tagger must fail for it.
#
# Nothing of the checkout is changed: a broken copy of one file is compiled and linked before the rest of the library.
root=$(cd "$(dirname "$0")/.." && pwd)
short=
[[ $1 != --short ]] || { short=1 && shift; }
build=$(cd "$1" && pwd) || exit 2
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT

test_object=$build/tests/unit/CMakeFiles/test_tagger.dir/test_tagger.c.o
library=$build/store/libnnmem_store.a
[[ -e $test_object && -e $library ]] || {
    echo "build first: no $test_object or $library"
    exit 2
}

# broken FILE PART INSTEAD: FILE on stdout with the first PART replaced.  Fails where there is none.
broken() {
    local text part=$2 instead=$3
    text=$(cat "$root/$1")
    [[ $text == *"$part"* ]] || return 1
    printf '%s\n' "${text%%"$part"*}$instead${text#*"$part"}"
}

# check OBJECT...: whether the unit test passes with these objects in the place of the library's.
check() {
    cc -o "$folder/test" "$test_object" "$@" "$library" -lcmocka -lsqlite3 -lpthread -lm 2>"$folder/link" || {
        cat "$folder/link"
        exit 2
    }
    timeout 60 "$folder/test" >"$folder/out" 2>&1
}

check || {
    echo "the unit test fails as it is"
    exit 2
}
nr=0 survivors=0
while IFS=$'\t' read -r file part instead; do
    [[ $file != \#* && -n $file ]] || continue
    [[ -z $short || $file == +* ]] || continue
    file=${file#+}
    broken "$file" "$part" "$instead" >"$folder/broken.c" || {
        echo "$file has no \"$part\" (any more): mend tests/mutation.txt"
        exit 2
    }
    cc -std=gnu11 -O1 -w -I "$root/include" -I "$root" -c -o "$folder/broken.o" "$folder/broken.c" || exit 2
    nr=$((nr + 1))
    if check "$folder/broken.o"; then
        echo "survives: $file: \"$part\" -> \"$instead\""
        survivors=$((survivors + 1))
    fi
done <"$root/tests/mutation.txt"
echo "$nr rules broken, $survivors not noticed"
((nr > 0 && survivors == 0))
