#!/bin/bash
# usage: exports.sh LIBRARY ALLOWED
# The library exports exactly what the file ALLOWED lists, needs libc alone, and has no thread-local storage that must be
# allocated when it is first used.
library=$1 allowed=$2 status=0

LC_ALL=C diff <(grep -v '^#' "$allowed" | LC_ALL=C sort) <(nm -D --defined-only "$library" | awk '{ print $3 }' | LC_ALL=C sort) || {
	echo "exports differ from $allowed (<: listed, >: exported)"
	status=1
}
needed=$(readelf -dW "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libdl|libpthread|ld-linux[-a-z0-9_]*)\.so')
[[ -z $needed ]] || {
	echo "needs $needed: every process under LD_PRELOAD would load it"
	status=1
}
if readelf -rW "$library" | grep -E 'DTPMOD|TLSDESC'; then
	echo "thread-local storage is not initial-exec"
	status=1
fi
exit $status
