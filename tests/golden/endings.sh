#!/bin/sh
# endings.sh GOLDEN_DB NNMEM_REPORT FOLDER: how nnmem-report ends when it is not given what it needs, or nobody reads it.
set -u
golden_db=$1 report=$2 folder=$3
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8 TERM=dumb
"$golden_db" "$work/run.db" "$folder/conv.sql" || exit 2
cd "$work" || exit 2
failed=0

complain() {
	echo "$*"
	failed=1
}

refused() { # WHAT ARGUMENT...: exit status 2, one line on stderr, nothing on stdout
	what=$1
	shift
	"$report" "$@" >out 2>err
	status=$?
	[ $status -eq 2 ] || complain "$what: exit status $status instead of 2"
	[ "$(wc -l <err)" -eq 1 ] || complain "$what: not one line: $(cat err)"
	[ ! -s out ] || complain "$what: output: $(cat out)"
}

refused "a missing file" nothing.db
: >empty.db
refused "an empty file" empty.db
refused "a folder" .
refused "a program" "$report"
head -c 5000 run.db >cut.db
refused "a cut file" cut.db
echo "UPDATE run SET hostname = x'ff';" >odd.sql
"$golden_db" odd.db "$folder/conv.sql" odd.sql || exit 2
refused "a damaged value" odd.db
[ "$(grep -o 'odd\.db' err | wc -l)" -eq 1 ] || complain "a damaged value: not named once: $(cat err)"
refused "no file"
refused "an unknown view" peaks run.db
refused "an unknown format" --format=xml run.db
refused "a layer that is not there" peak --layer=fc9 run.db
refused "a step that is not there" peak --step=99 run.db
refused "a filter without meaning" info --phase=forward run.db

"$report" run.db >/dev/full 2>err
[ $? -eq 2 ] || complain "a full disk: not exit status 2"
grep -q 'cannot write the report: No space left on device' err || complain "a full disk: $(cat err)"

# Nobody reads: `true` has gone before anything is written.
for format in text json csv markdown; do
	for view in summary timeline peak layers lifetimes growth stacks info; do
		(
			sleep 0.1
			"$report" $view --format=$format run.db 2>err
			echo $? >status
		) | true
		[ "$(cat status)" = 0 ] || complain "$view as $format: status $(cat status) when nobody reads"
		[ ! -s err ] || complain "$view as $format: $(cat err) when nobody reads"
	done
done

# Colour on demand only, and never where NO_COLOR says so or nobody looks.
escape=$(printf '\033')
"$report" run.db | grep -q "$escape" && complain "colour in a pipe"
"$report" --color=always run.db | grep -q "$escape" || complain "no colour where it was asked for"
exit $failed
