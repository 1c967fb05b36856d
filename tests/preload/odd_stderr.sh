#!/bin/bash
# usage: odd_stderr.sh full|no-reader PROGRAM [ARGUMENT ...]
# Run PROGRAM with a pipe as standard error that is full, or that nobody will ever read from.
kind=$1
shift
if [[ $kind == full ]]; then
	exec 2> >(exec sleep 2)
	head -c 65536 /dev/zero >&2
else
	exec 2> >(exec true)
	sleep 0.2
fi
exec "$@"
