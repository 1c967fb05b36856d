#!/usr/bin/env python3
"""Keep a recorded run file as text: dump.py RUN.db > NAME.sql

What differs from one recording to the next and is shown by no view (addresses, paths, ids of the machine) is replaced, so
that a new recording of the same run differs only where the run does.  On a GPU blocks lie in segments: addresses there keep
their distances.
"""
import re
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
on_gpu = {"allocation", "tensor"} if db.execute("SELECT count(*) FROM device WHERE name LIKE 'cuda%'").fetchone()[0] else set()
(lowest,) = db.execute("SELECT ifnull(min(address), 0) FROM allocation WHERE device & 255 = 1").fetchone()


def replaced(table, column, value):
    if column == "address" and table in on_gpu:
        return (value - lowest) % 2**46 + 2**46 if value else value
    if column == "command":
        return re.sub(r"^\S*/", "", value)
    if column == "file":
        # Packages by their own folder, all else by the file.
        return re.sub(r"^/.*/(site-packages|dist-packages)/", "/python/", value) if "-packages/" in value else re.sub(r"^/.*/", "/home/", value)
    return FIXED.get(table, {}).get(column, value)


print("-- A recorded run, by dump.py.")
for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall():
    if table in SKIP or table.startswith("sqlite_"):
        continue
    cursor = db.execute("SELECT * FROM %s" % table)
    columns = [column[0] for column in cursor.description]
    # In one INSERT, so that the columns are named once.
    rows = []
    for row in cursor:
        values = [replaced(table, column, value) for column, value in zip(columns, row)]
        rows.append("(%s)" % ",".join(
            "NULL" if v is None else "'%s'" % v.replace("'", "''") if isinstance(v, str) else str(v) for v in values))
    if rows:
        print("INSERT INTO %s (%s) VALUES\n%s;" % (table, ", ".join(columns), ",\n".join(rows)))
