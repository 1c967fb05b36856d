#!/usr/bin/env python3
"""Keep a recorded run file as text: dump.py RUN.db > NAME.sql

What differs from one recording to the next and is shown by no view (addresses, paths, ids of the machine) is replaced, so
that a new recording of the same run differs only where the run does.
"""
import sqlite3
import sys

FIXED = {
    "run": {"run_id": "0123456789abcdef", "pid": 4242, "hostname": "host", "ring_path": None, "ring_start_ns": 0,
            "start_realtime_ns": 1767000000000000000},
    "allocation": {"address": 0},
    "thread": {"os_id": 4242},
}
SKIP = {"commit_state", "sample"}

db = sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True)
print("-- A recorded run, by dump.py.")
for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall():
    if table in SKIP or table.startswith("sqlite_"):
        continue
    cursor = db.execute("SELECT * FROM %s" % table)
    columns = [column[0] for column in cursor.description]
    # In one INSERT, so that the columns are named once.
    rows = []
    for row in cursor:
        values = [FIXED.get(table, {}).get(column, value) for column, value in zip(columns, row)]
        rows.append("(%s)" % ",".join(
            "NULL" if v is None else "'%s'" % v.replace("'", "''") if isinstance(v, str) else str(v) for v in values))
    if rows:
        print("INSERT INTO %s (%s) VALUES\n%s;" % (table, ", ".join(columns), ",\n".join(rows)))
