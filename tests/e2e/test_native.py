"""Native stacks: against glibc's backtrace() at the same report, and their names against nm and c++filt."""

import bisect
import collections
import functools
import json
import os
import subprocess

import pytest

import harness

WITNESS = harness.BUILD / "lib/backtrace_preload.so"
VERSION = harness.VERSIONS[0]
INTERPRETER = "_PyEval_EvalFrameDefault"


@functools.cache
def functions(path):
    """Where the functions of an object begin, and what they are called, as nm lists them; of a stripped one those that it exports."""
    rows = []
    for dynamic in ([], ["-D"]):
        listed = subprocess.run(["nm", *dynamic, "--defined-only", path], capture_output=True, text=True, check=True).stdout.split("\n")
        rows = rows or sorted((int(row[:16], 16), row[19:].split("@")[0]) for row in listed if row[17:18] in tuple("tTwWiI"))
    return [start for start, _ in rows], [name for _, name in rows]


@functools.cache
def names(path, address):
    """All names of what begins last before the address."""
    starts, called = functions(path)
    place = bisect.bisect_right(starts, address) - 1
    return {called[i] for i in range(bisect.bisect_left(starts, starts[place]), place + 1)}


@functools.cache
def witnessed_place(words):
    """OBJECT+ADDRESS of the witness with the object's real name, and whether the interpreter's loop is there."""
    path, address = words.rsplit("+", 1)
    path = os.path.realpath(path)
    return f"{path}+{address}", "python" in path and INTERPRETER in names(path, int(address, 16) - 1)


class Recorded:
    def __init__(self, folder, stacks, *arguments):
        log = folder / "backtrace.log"
        harness.script(
            VERSION,
            "native.py",
            *arguments,
            folder=folder,
            preload=(WITNESS, harness.HOOK),
            NNMEM_STACKS=stacks,
            BACKTRACE_FILE=log,
        )
        self.folder = folder
        self.db = harness.Db(folder / "run.db")
        self.witnessed = [line.split() for line in log.read_text().splitlines()]
        self.frames = {row["id"]: row for row in self.db.rows("SELECT * FROM frame")}
        self.parents = {row["id"]: row for row in self.db.rows("SELECT * FROM stack")}
        self.allocations = self.db.rows("SELECT size_bytes, stack FROM allocation WHERE level = 0 ORDER BY alloc_seq")

    def stack(self, stack):
        """Its frames, innermost first."""
        frames = []
        while stack:
            frames.append(self.frames[self.parents[stack]["frame"]])
            stack = self.parents[stack]["parent"]
        return frames


@pytest.fixture(scope="module", params=["both", "native"])
def recorded(request, tmp_path_factory):
    run = Recorded(tmp_path_factory.mktemp(request.param), request.param, *(["thread"] if request.param == "native" else []))
    run.stacks = request.param
    return run


def test_stack_when_captured_then_it_is_what_backtrace_says(recorded):
    """Frame by frame, of every allocation: as far as the interpreter where Python's lines stand, else to the thread's first."""
    assert len(recorded.allocations) == len(recorded.witnessed) > 100
    nr_ends = collections.Counter()
    for (size, stack), (witnessed_size, *witnessed) in zip(recorded.allocations, recorded.witnessed):
        assert size == int(witnessed_size)
        frames = [frame for frame in recorded.stack(stack) if frame["kind"] == 2]
        assert frames[0]["file"].endswith("backtrace_preload.so")
        places = [witnessed_place(words) for words in witnessed]
        ends = [i for i, (_, is_interpreter) in enumerate(places) if is_interpreter]
        if recorded.stacks == "both" and ends:
            places = places[: ends[0]]
        # nnmem's own frames, which wrap the engine, it does not tell.
        expected = [place for place, _ in places if "libnnmemhook" not in place]
        if len(frames) == 129 and frames[-1]["file"] == "<more frames>":
            frames, expected = frames[:128], expected[:127]
            nr_ends["more"] += 1
        assert [f"{os.path.realpath(frame['file'])}+{frame['offset'] + 1:x}" for frame in frames[1:]] == expected
        nr_ends["python" if ends else "thread"] += 1
    assert nr_ends["python"] > 100


def test_stack_when_both_then_python_operation_and_native_in_this_order(recorded):
    kinds = ["".join(str(frame["kind"]) for frame in reversed(recorded.stack(stack))) for _, stack in recorded.allocations]
    python = sum(kind.startswith("0") for kind in kinds)
    assert all(kind.lstrip("0").lstrip("1").strip("2") == "" for kind in kinds)
    assert all(kind.count("1") <= 1 for kind in kinds)
    assert (python == len(kinds)) if recorded.stacks == "both" else python == 0
    # What an operation is known by stays known with native frames on it.
    operations = recorded.db.rows("SELECT count(*) FROM v_allocation WHERE operation = 'aten::conv2d' AND level = 'block'")[0][0]
    assert operations >= 3


def test_folded_when_native_then_with_the_names_that_nm_gives(recorded):
    out = harness.report("stacks", "run.db", "--of", "allocated", "--folded", folder=recorded.folder).out
    used = {frame["id"]: frame for _, stack in recorded.allocations for frame in recorded.stack(stack)}
    of_torch = [frame for frame in used.values() if frame["kind"] == 2 and "/torch/lib/" in frame["file"]]
    mangled = [names(frame["file"], frame["offset"]) for frame in of_torch]
    words = sorted(set.union(*mangled))
    said = subprocess.run(["c++filt", "-p"], input="\n".join(words), capture_output=True, text=True, check=True).stdout.split("\n")
    # A name without brackets and types is said as it is.
    plain = {word: name for word, name in zip(words, said) if not set("<({[ ") & set(name)}
    shown = {part.rsplit(" (", 1)[0] for line in out.splitlines() for part in line.rsplit(" ", 1)[0].split(";")}
    assert "at::native::conv2d_symint" in shown and "torch::autograd::THPVariable_conv2d" in shown
    checked = [{plain[word] for word in called} for called in mangled if called <= plain.keys()]
    assert len(checked) > 100 and all(called & shown for called in checked)


def test_tree_when_native_then_without_what_only_passes_calls_on(recorded):
    out = harness.report("stacks", "run.db", "--of", "allocated", "--limit", "all", "--width=250", folder=recorded.folder).out
    assert "at::native::conv2d_symint (libtorch_cpu.so)" in out
    assert "Dispatcher" not in out and "at::_ops::" not in out
    if recorded.stacks == "both":
        assert "work (native.py:" in out and "_PyEval" not in out
    else:
        assert "native.py" not in out and INTERPRETER in out


def test_speedscope_when_native_then_whole(recorded):
    out = harness.report("stacks", "run.db", "--of", "allocated", "--speedscope", folder=recorded.folder).out
    profile = json.loads(out)
    names = [frame["name"] for frame in profile["shared"]["frames"]]
    deepest = max(len(sample) for sample in profile["profiles"][0]["samples"])
    assert "at::native::conv2d_symint (libtorch_cpu.so)" in names and deepest > 20


def test_peak_when_native_then_lines_of_python(recorded):
    out = harness.report("peak", "run.db", "--width=200", folder=recorded.folder).out
    assert ("native.py:" in out) == (recorded.stacks == "both")
    assert "libtorch" not in out
