#!/bin/sh
# golden.sh GOLDEN_DB NNMEM_REPORT FOLDER NAME [--update]
#
# Every view of the recorded run FOLDER/NAME.sql, in every format, must be what FOLDER/NAME/ holds; --update writes it.
set -u
golden_db=$1 report=$2 folder=$3 name=$4 update=${5-}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
unset NO_COLOR COLUMNS
export LC_ALL=C.UTF-8 TERM=dumb
"$golden_db" "$work/run.db" "$folder/$name.sql" || exit 2
cd "$work" || exit 2
failed=0

check() { # EXPECTED-NAME ARGUMENT...
	expected=$folder/$name/$1
	shift
	"$report" "$@" --color=never run.db >"$work/got" 2>&1
	echo "exit status $?" >>"$work/got"
	if [ -n "$update" ]; then
		mkdir -p "$folder/$name" && cp "$work/got" "$expected" || exit 2
	elif ! diff -u "$expected" "$work/got"; then
		echo "differs: nnmem-report $*"
		failed=1
	fi
}

for view in summary timeline peak layers lifetimes growth stacks segments ledger oom info; do
	check $view.txt $view --width=100
	check $view.json $view --format=json
	check $view.csv $view --format=csv
	check $view.md $view --format=markdown
done
check timeline-step.txt timeline --step=2 --width=80
check timeline-limit.txt timeline --limit=3 --width=80
check peak-limit.txt peak --limit=3 --units=MB --width=120
check peak-wide.txt peak --limit=6 --width=170
check stacks-bottom-up.txt stacks --bottom-up --of=allocated
check stacks-folded.txt stacks --folded
check stacks-speedscope.txt stacks --speedscope
check lifetimes-step.txt lifetimes --step=1 --width=60
check layers-narrow.txt layers --width=60
check layers-below.txt layers --layer='features.*' --step=1
check layers-limit.txt layers --limit=3 --units=bytes
check peak-filtered.txt peak --phase=backward --category=gradient,backward_temporary --min-size=1KiB
check peak-filtered.json peak --layer='features.*' --step=2 --min-size=100kB --format=json
if [ "$name" = cuda ]; then
	check segments-end.txt segments --at=end --width=140 --limit=1
	check segments-step.csv segments --at=step=1 --format=csv
	check segments-none.txt segments --at=oom=2
	check ledger-oom.txt ledger --at=oom=1 --units=bytes
	check ledger-step.json ledger --at=step=0 --format=json
	check ledger-cpu.txt ledger --device=cpu
	check oom-limit.txt oom --limit=1 --width=70
fi
check device.txt peak --device=cuda:7
# Without UTF-8 nothing but ASCII leaves the program.
LC_ALL=C check timeline-ascii.txt timeline --step=2 --width=60
if LC_ALL=C grep -q '[^ -~]' "$folder/$name/timeline-ascii.txt"; then
	echo "not ASCII: $name/timeline-ascii.txt"
	failed=1
fi
exit $failed
