"""Run files and their surroundings: names, folders, variables, bad files, programs that do not train, nnmem-run."""

import pathlib
import signal
import sqlite3
import subprocess
import tempfile
import time

import pytest

import harness


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_run_file_when_one_is_there_already_then_it_is_kept_under_another_name(version, tmp_path):
    run_ids = []
    for _ in range(3):
        done = harness.script(version, "isolated.py", folder=tmp_path)
        run_ids.append(done.db().run()["run_id"])
    assert len(set(run_ids)) == 3
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run.db", "run.~1~.db", "run.~2~.db"]
    kept = {name: harness.Db(tmp_path / name).run()["run_id"] for name in names}
    assert set(kept.values()) == set(run_ids) and kept["run.db"] == run_ids[2]


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_run_file_when_written_then_only_its_owner_can_read_it(version, tmp_path):
    done = harness.script(version, "isolated.py", folder=tmp_path)
    assert (tmp_path / "run.db").stat().st_mode & 0o777 == 0o600
    assert not harness.rings_of(done.pid)


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_closing_line_when_the_run_is_written_then_names_file_and_report(version, tmp_path):
    done = harness.script(version, "isolated.py", folder=tmp_path)
    (line,) = done.err.splitlines()
    assert line.startswith("nnmem: ") and "run.db" in line and "nnmem-report" in line
    quiet = harness.script(version, "isolated.py", folder=tmp_path, NNMEM_LOG="quiet")
    assert quiet.err == ""


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
@pytest.mark.parametrize("out", ["nowhere/run.db", "/dev/null/run.db"])
def test_folder_when_it_cannot_be_written_then_one_line_and_the_run_goes_on(version, out, tmp_path):
    done = harness.script(version, "isolated.py", folder=tmp_path, NNMEM_OUT=out)
    assert done.out == "done\n"
    (line,) = done.err.splitlines()
    assert line.startswith("nnmem: ") and out in line
    assert list(tmp_path.iterdir()) == []
    harness.wait_until_alone(done.pid)
    assert not harness.rings_of(done.pid)


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
@pytest.mark.parametrize(
    "name,value",
    [
        ("NNMEM_RING_MB", "potato"),
        ("NNMEM_RING_MB", "-3"),
        ("NNMEM_STACKS", "yes"),
        ("NNMEM_CPU", "maybe"),
        ("NNMEM_LOG", "loud"),
    ],
)
def test_variable_when_its_value_is_bad_then_one_line_and_the_default(version, name, value, tmp_path):
    done = harness.script(version, "isolated.py", folder=tmp_path, **{name: value})
    assert done.out == "done\n"
    first, closing = done.err.splitlines()
    assert first.startswith("nnmem: ") and name in first and value in first
    assert "run.db" in closing
    assert len(done.db().steps("train")) == 3


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_hook_when_switched_off_then_nothing_is_written(version, tmp_path):
    done = harness.script(version, "isolated.py", folder=tmp_path, NNMEM_OFF="1")
    assert (done.out, done.err, list(tmp_path.iterdir())) == ("done\n", "", [])


def test_process_when_it_never_imports_torch_then_no_file_thread_or_child(tmp_path):
    code = """if True:
        import os
        print(os.listdir('/proc/self/task') == [str(os.getpid())], len(os.listdir('/proc/self/fd')))
        print(repr(open(f'/proc/self/task/{os.getpid()}/children').read()))
    """
    python = harness.python_of(harness.VERSIONS[0])
    bare = harness.run([python, "-c", code], tmp_path, preload=())
    done = harness.run([python, "-c", code], tmp_path)
    assert (done.out, done.err) == (bare.out, "")
    assert done.out.splitlines()[1] == "''"
    assert list(tmp_path.iterdir()) == []
    assert not harness.rings_of(done.pid) and not harness.recorders_of(done.pid)


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_report_when_the_program_still_runs_then_shows_what_there_is(version, tmp_path):
    code = (harness.SCRIPTS / "isolated.py").read_text() + "\nimport sys\nsys.stdout.flush()\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [harness.python_of(version), "-c", code],
        cwd=tmp_path,
        env=harness.environment((harness.HOOK,)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "done\n"
        time.sleep(0.5)  # more than the time between two commits
        shown = harness.report("run.db", folder=tmp_path)
        assert "recovered" not in shown.out.lower()
        assert harness.Db(tmp_path / "run.db").run()["ended"] == "running"
        assert harness.Db(tmp_path / "run.db").run()["events"] > 100
    finally:
        process.communicate("", timeout=60)
    assert harness.Db(tmp_path / "run.db").run()["ended"] == "exit 0"


@pytest.fixture(scope="module")
def good_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    harness.script(harness.VERSIONS[0], "isolated.py", folder=folder)
    return folder / "run.db"


def newer(data):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.db"
        path.write_bytes(data)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        return path.read_bytes()


def foreign(_):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.db"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE run (id)")
        connection.close()
        return path.read_bytes()


BAD_FILES = {
    "empty": lambda data: b"",
    "header only": lambda data: data[:100],
    "one page": lambda data: data[:4096],
    "truncated": lambda data: data[: len(data) // 2],
    "half-written": lambda data: data[:4096] + b"\0" * (len(data) - 4096),
    "garbage behind the first page": lambda data: data[:4096] + bytes(range(256)) * ((len(data) - 4096) // 256),
    "text": lambda data: b"epoch 1: loss 0.5\n" * 1000,
    "foreign": foreign,
    "newer": newer,
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_report_when_the_file_is_bad_then_one_line_and_status_two(kind, good_file, tmp_path):
    (tmp_path / "bad.db").write_bytes(BAD_FILES[kind](good_file.read_bytes()))
    for view in ("summary", "timeline", "peak", "layers", "lifetimes", "growth", "stacks", "info"):
        shown = harness.report(view, "bad.db", folder=tmp_path, check=False)
        assert (shown.status, shown.out) == (2, ""), view
        (line,) = shown.err.splitlines()
        assert "bad.db" in line


@pytest.mark.parametrize("name", ["missing.db", "."])
def test_report_when_there_is_no_file_then_one_line_and_status_two(name, tmp_path):
    shown = harness.report(name, folder=tmp_path, check=False)
    assert (shown.status, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert name in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_nnmem_run_when_the_command_ends_then_ends_with_its_status(version, tmp_path):
    python = harness.python_of(version)
    done = harness.run([harness.RUN, python, harness.SCRIPTS / "isolated.py"], tmp_path, preload=())
    assert done.out == "done\n"
    assert done.db().run()["ended"] == "exit 0"
    failed = harness.run([harness.RUN, python, "-c", "import sys; sys.exit(42)"], tmp_path, preload=(), check=False)
    assert failed.status == 42
    missing = harness.run([harness.RUN, "no-such-program"], tmp_path, preload=(), check=False)
    assert missing.status == 127 and len(missing.err.splitlines()) == 1


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_nnmem_run_when_it_gets_a_signal_then_the_command_gets_it(sent, tmp_path):
    code = """if True:
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        signal.signal(signal.SIGINT, lambda *_: sys.exit(9))
        print('ready', flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen(
        [harness.RUN, harness.python_of(harness.VERSIONS[0]), "-c", code],
        cwd=tmp_path,
        env=harness.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, sent))
    process.communicate(timeout=30)
    assert process.returncode == 9


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_install_when_to_another_prefix_then_nnmem_run_finds_its_own_library(version, tmp_path):
    prefix, folder = tmp_path / "prefix", tmp_path / "work"
    folder.mkdir()
    harness.run(["cmake", "--install", harness.BUILD, "--prefix", prefix], folder, preload=())
    command = [prefix / "bin/nnmem-run", harness.python_of(version), harness.SCRIPTS / "isolated.py"]
    done = harness.run(command, folder, preload=())
    assert done.out == "done\n"
    assert len(done.db().steps("train")) == 3
    shown = harness.run([prefix / "bin/nnmem-report", "run.db"], folder, preload=())
    assert shown.out
    assert (prefix / "include/nnmem/nnmem.h").exists()
