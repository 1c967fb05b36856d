"""Run a script under the hook and look at what was recorded.

Run files are read with Python's own sqlite3, through the public views where they say enough; the log of count_preload.c
is read byte by byte.  Nothing of nnmem's own reading code is used.
"""

import dataclasses
import os
import pathlib
import sqlite3
import struct
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SCRIPTS = HERE / "scripts"
BUILD = pathlib.Path(os.environ.get("NNMEM_BUILD", ROOT / "build/release"))
VENVS = pathlib.Path(os.environ.get("NNMEM_VENVS", ROOT))
HOOK = BUILD / "lib/libnnmemhook.so"
COUNT = BUILD / "lib/count_preload.so"
REPORT = BUILD / "bin/nnmem-report"
RUN = BUILD / "bin/nnmem-run"

KNOWN_VERSIONS = ("2.13.0", "2.14.1")
# Debian 12's python3-torch, which test_older.py tests as far as that version goes.
OLDER = "1.13.1"
WANTED = os.environ.get("NNMEM_TEST_VERSIONS", "").split()
VERSIONS = [version for version in WANTED if version != OLDER] or [
    version for version in KNOWN_VERSIONS if (VENVS / f".venv-{version}/bin/python").exists()
]
OLDER_VERSIONS = [OLDER] if OLDER in WANTED or not WANTED else []


def python_of(version):
    return pathlib.Path("/usr/bin/python3") if version == OLDER else VENVS / f".venv-{version}/bin/python"


def torch_version(version):
    """What torch.__version__ says, without what follows a +."""
    return "1.13.0a0" if version == OLDER else version


@dataclasses.dataclass
class Finished:
    """A program that has ended: status as subprocess tells it (negative: the signal), what it printed, where it ran."""

    status: int
    out: str
    err: str
    folder: pathlib.Path
    pid: int

    def db(self, name="run.db"):
        return Db(self.folder / name)

    def log(self):
        return CountLog(self.folder / "count.log")


def environment(preload=(), **extra):
    """The caller's environment less what could change a run, with @preload; extra keys override, None removes."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("NNMEM_", "COUNT_")) and k not in ("LD_PRELOAD", "RANK")}
    env["OMP_NUM_THREADS"] = env["MKL_NUM_THREADS"] = "1"
    env["PYTHONPATH"] = str(SCRIPTS)
    if preload:
        env["LD_PRELOAD"] = ":".join(str(path) for path in preload)
    env.update({k: str(v) for k, v in extra.items() if v is not None})
    for key in [k for k, v in extra.items() if v is None]:
        env.pop(key, None)
    return env


def run(command, folder, preload=(HOOK,), timeout=240, check=True, **extra):
    """Run @command (a list) in @folder until it ends; with `count.log` there when count_preload is in @preload."""
    if COUNT in preload:
        extra.setdefault("COUNT_FILE", folder / "count.log")
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment(preload, **extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{command} still ran after {timeout} s; stderr:\n{err}") from None
    if check:
        assert process.returncode == 0, f"status {process.returncode}; stdout:\n{out}\nstderr:\n{err}"
    return Finished(process.returncode, out, err, folder, process.pid)


def script(version, name, *args, folder, **options):
    """Run scripts/@name with the Python of PyTorch @version."""
    return run([python_of(version), SCRIPTS / name, *args], folder, **options)


def report(*args, check=True, **options):
    """Run nnmem-report without the hook; output piped, so neither colour nor terminal width."""
    folder = options.pop("folder", ROOT)
    return run([REPORT, *args], folder, preload=(), check=check, **options)


class Db:
    """A run file, opened read-only."""

    def __init__(self, path):
        assert path.exists(), f"no {path.name} in {sorted(p.name for p in path.parent.iterdir())}"
        self.path = path
        self.connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self.connection.row_factory = sqlite3.Row

    def rows(self, query, *values):
        return self.connection.execute(query, values).fetchall()

    def one(self, query, *values):
        (row,) = self.rows(query, *values)
        return row[0] if len(row) == 1 else row

    def run(self):
        return self.one("SELECT * FROM v_run")

    def steps(self, kind=None, device="cpu"):
        """Rows of v_step, in order."""
        return [
            row
            for row in self.rows("SELECT * FROM v_step WHERE device = ? ORDER BY step", device)
            if kind is None or row["kind"] == kind
        ]

    def sequence(self):
        """All reports in the order of truth: (seq, size < 0 for a free, address, OS thread id)."""
        return [
            tuple(row)
            for row in self.rows(
                """SELECT alloc_seq AS seq, size_bytes AS size, address, t.os_id AS os_id
                   FROM allocation a JOIN thread t ON t.id = a.thread
                   UNION ALL
                   SELECT free_seq, -size_bytes, address, t.os_id
                   FROM allocation a JOIN thread t ON t.id = a.free_thread WHERE free_seq IS NOT NULL
                   ORDER BY 1"""
            )
        ]

    def assert_sound(self):
        """What holds of every run: nothing lost, every total equal to PyTorch's, no degradation noted."""
        row = self.run()
        assert row["lost"] == 0, [tuple(r) for r in self.rows("SELECT * FROM v_lost")]
        assert row["audit_failures"] == 0 and row["audit_checks"] > 0
        assert [tuple(r) for r in self.rows("SELECT * FROM v_note WHERE severity != 'info'")] == []
        assert self.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


class CountLog:
    """What count_preload.c logged: `events` are (address, size, OS thread id, total), in the order of the log."""

    def __init__(self, path):
        data = path.read_bytes()
        count, capacity, self.pid, _ = struct.unpack_from("=QQQQ", data)
        assert count <= capacity, "the log is too small for this test"
        self.events = [
            (address, size, thread, total)
            for address, size, thread, _, total in struct.iter_unpack("=QqIIQ", data[32 : 32 + 32 * count])
        ]


def heights(sizes, start=0):
    """The running total before the first and after each of @sizes."""
    result = [start]
    for size in sizes:
        result.append(result[-1] + size)
    return result


def find(needle, haystack):
    """Where the list @needle begins in @haystack; it must occur exactly once."""
    assert needle, "nothing to find"
    places = [
        at for at in range(len(haystack) - len(needle) + 1) if haystack[at] == needle[0] and haystack[at : at + len(needle)] == needle
    ]
    assert len(places) == 1, f"found {len(places)} times"
    return places[0]


def wait_until(condition, seconds=10, what="condition"):
    """Poll @condition until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def recorders_of(pid):
    """Pids of the recorders that work for process @pid, told by the ring's name on their command lines."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words and words[0].endswith(b"nnmem-record") and any(f"-{pid}-".encode() in word for word in words[1:]):
            found.append(int(entry.name))
    return found


def rings_of(pid):
    """Rings of process @pid that lie in memory."""
    folders = [os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"]
    return [ring for folder in folders if folder for ring in pathlib.Path(folder).glob(f"nnmem-*-{pid}-*.ring")]


def wait_until_alone(pid):
    """Until no recorder works for process @pid any more."""
    wait_until(lambda: not recorders_of(pid), 15, f"the recorder of {pid} leaves")
