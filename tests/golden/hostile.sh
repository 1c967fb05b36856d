#!/bin/sh
# hostile.sh GOLDEN_DB NNMEM_REPORT FOLDER
#
# Every view, in every format, of run files that say what no recorder would: never a crash, never more than a minute, nothing on
# standard output that steers a terminal; exit status 0 or, with one line on stderr, 2.
set -u
golden_db=$1 report=$2 folder=$3
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
export LC_ALL=C.UTF-8 TERM=dumb
cd "$work" || exit 2
failed=0

complain() {
	echo "$*"
	failed=1
}

# What one change to a good file does: NAME SQL
changes() {
	cat <<'SQL'
names UPDATE module SET fqn = '=cmd|''/c calc''!A1', class = char(27) || '[31m' || char(8238), root_name = '| a | b |';
paths UPDATE module SET fqn = replace(hex(zeroblob(2000)), '0', '1.');
empty UPDATE module SET fqn = '', root_name = '';
circle UPDATE module SET parent = id % 7 + 1;
chain UPDATE module SET parent = id - 1, root = 1;
rings UPDATE stack SET parent = id % 9 + 1;
nameless UPDATE frame SET file = char(10) || ';' || char(34) || char(0), function = ';;' || char(7) || char(92), kind = id % 3;
bytes UPDATE frame SET file = CAST(x'ff0afe' AS TEXT), function = CAST(zeroblob(3000) AS TEXT);
kinds UPDATE frame SET kind = 9;
frames UPDATE frame SET file = '```' || char(10) || '# h', function = '(((', line = 9223372036854775807;
operations UPDATE stack SET operation = frame, shown = 0;
tensors UPDATE tensor SET name = '..', shape = '9,,9', state_key = '@SUM(A1)', dtype = char(9);
shapes UPDATE tensor SET shape = '9999999999,9999999999,9999999999';
huge UPDATE allocation SET size_bytes = 9223372036854775807;
negative UPDATE allocation SET size_bytes = -1;
zero UPDATE allocation SET size_bytes = 0;
times UPDATE allocation SET alloc_ns = 9223372036854775807, free_ns = 0;
backwards UPDATE allocation SET free_seq = alloc_seq - 1;
phases UPDATE allocation SET phase = 5, free_phase = 0, category = 5;
codes UPDATE allocation SET category = 99;
calls UPDATE allocation SET call = id, module = 1, phase = 1;
call UPDATE allocation SET call = -5;
lost UPDATE allocation SET module = 4294967295, tensor = 99, stack = 99, stretch = 99, free_stretch = 99;
text UPDATE allocation SET size_bytes = 'many';
spans UPDATE span SET start_ns = 9223372036854775807, end_ns = 0, phase = 2;
overlap UPDATE span SET start_ns = 0, end_ns = 9223372036854775807, end_seq = 0;
nospans DELETE FROM span;
steps UPDATE step SET start_seq = 9223372036854775807, end_seq = 0;
timeless UPDATE step SET start_ns = 0, end_ns = 0;
stretches UPDATE stretch SET step = 2;
nosteps DELETE FROM step;
nodevice DELETE FROM device;
devices UPDATE device SET peak_seq = 0, peak_bytes = 9223372036854775807, peak_stretch = 77;
peaks UPDATE layer_peak SET module = module + 99, forward_peak_bytes = -1;
thousand WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO module SELECT 100 + i, 1, 99 + i, 'a.' || i || '.b', 'C' || i, 'R' || i FROM n;
many WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO allocation (id, device, level, address, size_bytes, alloc_seq, alloc_ns, free_seq, free_ns, thread, free_thread, stretch, free_stretch, phase, free_phase, category, rule, module, tensor, stack, flags, episode) SELECT 10000 + i, 65280, 0, i, i, 9000 + i, i, NULL, NULL, 1, 0, 1, 0, i % 6, NULL, i % 13, 0, i % 8, 0, 0, 0, 0 FROM n;
SQL
}

# The same of a run on a GPU, for the views of its memory.
cuda_changes() {
	cat <<'SQL'
overlap UPDATE allocation SET address = 70368744177664 WHERE level > 0;
inside UPDATE allocation SET address = 70368744177664 + id WHERE level = 0;
nowhere UPDATE allocation SET address = -id;
wide UPDATE allocation SET size_bytes = 9223372036854775807 WHERE level = 1;
wider UPDATE allocation SET size_bytes = 9223372036854775807;
tiny UPDATE allocation SET size_bytes = 1 WHERE level = 1;
mapped UPDATE allocation SET level = 4, caller = address WHERE level = 1;
handles UPDATE allocation SET level = 4, caller = 5 WHERE level = 0 AND id % 2;
unmapped INSERT INTO allocation SELECT id + 1000, device, 4, 7, size_bytes, alloc_seq, alloc_ns, alloc_seq, free_ns, thread, free_thread, stretch, free_stretch, phase, free_phase, category, rule, module, tensor, stack, flags, episode, call, 0, address FROM allocation WHERE level = 1;
callers UPDATE object SET file = char(27) || '[31m/=cmd|calc';
unknown DELETE FROM object;
nocontext DELETE FROM driver WHERE first;
silent DELETE FROM driver;
used UPDATE driver SET used_bytes = 9223372036854775807, total_bytes = 0;
unused UPDATE driver SET used_bytes = 0, segment_bytes = 9223372036854775807;
asked UPDATE allocation SET requested_bytes = 9223372036854775807;
wanted UPDATE oom SET size_bytes = 9223372036854775807;
wanting UPDATE oom SET size_bytes = 0, seq = 0;
alone DELETE FROM allocation;
misses WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO refusal SELECT 9000 + i, i, 1, 1, 1, 1, 1, i, i, i, 1 FROM n;
ooms WITH n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO oom SELECT 9000 + i, i, 1, 1, 1, 1, 1, i, i, i, 1 FROM n;
text UPDATE allocation SET caller = 'me';
births UPDATE allocation SET alloc_seq = 3, free_seq = 3;
ids UPDATE allocation SET id = id + 9223372036854770000;
SQL
}

each_change() { # RUN VIEW...
	run=$1
	shift
	views=$*
	while read -r name sql; do
	echo "$sql" >change.sql
	rm -f run.db
	"$golden_db" run.db "$folder/$run.sql" change.sql || exit 2
	for view in $views; do
		for format in text json csv markdown; do
			case $format-$view in
			text-info) set -- "" "--width=60" ;;
			text-stacks) set -- "--limit=all --width=60" "--bottom-up --of=allocated --step=2" "--folded --of=live" "--speedscope" ;;
			text-growth) set -- "" "--limit=all --width=60 --device=cpu" ;;
			text-segments | text-ledger) set -- "" "--limit=all --width=60 --at=oom=1" "--at=end" "--at=step=2" ;;
			text-oom) set -- "" "--limit=all --width=60" ;;
			text-summary) set -- "" "--device=cpu --width=60" ;;
			text-*) set -- "" "--limit=all --width=60 --device=cpu --step=2" ;;
			*) set -- "--limit=all" ;;
			esac
			for more in "$@"; do
				# shellcheck disable=SC2086
				timeout 60 "$report" $view --format=$format $more run.db >out 2>err
				status=$?
				if [ $status -eq 2 ]; then
					[ "$(wc -l <err)" -eq 1 ] || complain "$name: $view as $format $more: not one line: $(cat err)"
				elif [ $status -ne 0 ]; then
					complain "$name: $view as $format $more: exit status $status: $(head -c 2000 err)"
				fi
				if [ "$more$status" = --speedscope0 ] && [ -s out ] && ! python3 -m json.tool out >/dev/null; then
					complain "$name: $view $more: not JSON"
				fi
				if grep -q "$(printf '[\001-\010\013\014\016-\037\177]')" out; then
					complain "$name: $view as $format $more: control characters"
				fi
				# A cell that a spreadsheet would calculate: text that begins with = + @, or with - and no digit after it.
				if [ $format = csv ] && grep -Eq '(^|,)"?([=+@]|-[^0-9])' out; then
					complain "$name: $view as csv $more: a formula: $(grep -Em1 '(^|,)"?([=+@]|-[^0-9])' out)"
				fi
			done
		done
	done
	[ $failed -eq 0 ] || exit 1
	done
}

changes | each_change conv summary timeline peak layers lifetimes growth stacks info || exit 1
cuda_changes | each_change cuda summary segments ledger oom || exit 1
