#!/bin/bash
# usage: check.sh FOLDER EXPECTED NAME [VARIABLE=VALUE ...] COMMAND [ARGUMENT ...]
# Run COMMAND bare and under the hook with dump_record for a recorder, and compare what comes out with the text EXPECTED/NAME.
# FOLDER: of the tests' build, with the library in stage/lib and the recorder in stage/bin.
# NNMEM_TESTS_UPDATE=1 writes the expected text instead.
set -u
folder=$1 expected=$2/$3 name=$3
shift 3
variables=()
while [[ $1 == *=* ]]; do variables+=("$1"); shift; done

work=$(mktemp -d "${TMPDIR:-/tmp}/nnmem-preload.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
ulimit -c 0

env "$@" >bare.out 2>bare.err
bare_status=$?
env LD_PRELOAD="$folder/stage/lib/libnnmemhook.so" NNMEM_OUT="$work/dump" "${variables[@]}" "$@" >out 2>err
status=$?
# The recorder of a program that did not wait for it ends a moment later.
for ((i = 0; i < 200; i++)); do
	[[ -e dump.part ]] || break
	sleep 0.02
done

{
	[[ $status == "$bare_status" ]] && echo "status $status" || echo "status $status, bare $bare_status"
	cmp -s out bare.out && echo "--- stdout" || echo "--- stdout, not as bare"
	cat out
	echo "--- stderr"
	grep -vE ': line [0-9]+: +[0-9]+ (Killed|Segmentation fault)' err
	if [[ -e reused ]]; then echo "--- reused"; cat reused; fi
	echo "--- records"
	[[ -e dump ]] && cat dump
} | sed -e "s|$work|WORK|g" -e "s|$folder|FOLDER|g" -e 's|^thread 2 .*|thread 2|' >found

if [[ $name == signals ]]; then
	# How many there are varies, but each report was recorded or counted as lost.
	awk -v status="$status" '
		FNR == NR { made = $2; next }
		/^(alloc|free)/ { sub(/.* x/, ""); told += $1 ~ /^[0-9]/ ? $1 : 1 }
		/^lost/ { lost += $3 }
		/^end exit 0/ { ended = 1 }
		END { print made, told, lost; exit !(made > 0 && made == told + lost && ended && status == 0) }' out dump
	exit
fi
if [[ -n ${NNMEM_TESTS_UPDATE:-} ]]; then
	cp found "$expected"
	exit
fi
diff -u "$expected" found
