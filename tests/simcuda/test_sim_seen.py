"""Memory that only CUPTI sees, on the simulated device: all that the driver gave is recorded once, whoever asked for it, and
torch.profiler's traces are what they are without nnmem.

The witnesses are the simulated driver's log and traces of runs without nnmem.
"""

import collections
import json
import pathlib

import harness
import pytest
import rig

SCENARIOS = pathlib.Path(__file__).resolve().parent / "seen_scenarios.py"
TRACES = {"plain": 0, "profiled": 3, "profiled_at_once": 1, "finalized": 0, "slow": 0}


def run(name, folder, hook=True, **settings):
    finished = harness.run(
        [harness.python_of(rig.VERSION), SCENARIOS, name],
        folder,
        preload=[*([harness.HOOK] if hook else []), *rig.LIBRARIES],
        **rig.settings_of(folder, settings),
    )
    return finished, rig.read_log(folder / "driver.log")


def by_driver(log):
    """Counts of (address, bytes) that were given, and of those that were taken back."""
    given = collections.Counter((event.address, event.size) for event in log if event.what == "alloc")
    taken = collections.Counter((event.address, event.size) for event in log if event.what == "free")
    return given, taken


def by_nnmem(db):
    rows = db.rows("SELECT * FROM v_allocation v JOIN allocation a USING (id) WHERE v.level = 'segment'")
    given = collections.Counter((row["address"], row["size_bytes"]) for row in rows)
    taken = collections.Counter((row["address"], row["size_bytes"]) for row in rows if row["free_seq"] is not None)
    return given, taken


def callers(db):
    """How often each library called for memory that CUPTI alone saw."""
    rows = db.rows(
        """SELECT o.file FROM v_allocation v JOIN allocation a USING (id) LEFT JOIN object o
           ON a.caller >= o.start AND a.caller < o.end WHERE v.source = 'cupti'"""
    )
    return collections.Counter(pathlib.Path(row["file"]).name for row in rows)


def trace(folder, i):
    """What a trace holds, without its times: names with how often they come, by category."""
    events = json.loads((folder / f"trace-{i}.json").read_text())["traceEvents"]
    return collections.Counter((event.get("cat"), event["name"]) for event in events if event.get("ph") == "X")


@pytest.mark.parametrize(
    "name,settings",
    [
        ("plain", {}),
        ("profiled", {}),
        ("finalized", {}),
        ("profiled", {"SIMCUDA_CUPTI_BUFFER": 400}),
        ("profiled", {"SIMCUDA_CUPTI_REVERSE": 1, "SIMCUDA_CUPTI_BUFFER": 2000}),
        ("profiled_at_once", {}),
        ("slow", {"SIMCUDA_CUPTI_LATE": 50}),
    ],
)
def test_sim_all_memory_is_recorded_once_and_the_profiler_has_what_is_its(name, settings, tmp_path):
    for folder in ("ours", "bare"):
        (tmp_path / folder).mkdir()
    finished, log = run(name, tmp_path / "ours", **settings)
    db = finished.db()
    db.assert_sound()
    assert by_nnmem(db) == by_driver(log)
    by_library = collections.Counter(event.caller for event in log if event.what == "alloc")
    assert by_library["sim-cudart.so"] > 0 and by_library["sim-cublas.so"] > 0
    assert db.one("SELECT count(*) FROM v_allocation WHERE source = 'call' AND level = 'segment'") == by_library["sim-cudart.so"]
    assert callers(db) == {"sim-cublas.so": by_library["sim-cublas.so"]}
    if not TRACES[name]:
        return
    run(name, tmp_path / "bare", hook=False, **settings)
    for i in range(TRACES[name]):
        expected = trace(tmp_path / "bare", i)
        assert sum(count for (category, _), count in expected.items() if category == "kernel") > 0
        assert trace(tmp_path / "ours", i) == expected


def test_sim_times_are_those_of_the_calls(tmp_path):
    """cuBLAS takes its workspaces in the first forward and the first backward, whatever clock the profiler set meanwhile."""
    db = run("profiled", tmp_path)[0].db()
    seen = [row[0] for row in db.rows("SELECT alloc_ns FROM v_allocation WHERE source = 'cupti' ORDER BY alloc_ns")]
    spans = {
        phase: db.one("SELECT min(alloc_ns) || ' ' || max(alloc_ns) FROM v_allocation WHERE step = 1 AND phase = ?", phase)
        for phase in ("forward", "backward")
    }
    assert len(seen) == 2
    begin, end = (int(word) for word in spans["forward"].split())
    assert begin < seen[0] < end + 1_000_000_000
    begin, end = (int(word) for word in spans["backward"].split())
    assert begin - 1_000_000_000 < seen[1] < end + 1_000_000_000


def test_sim_expandable_segments_are_not_counted_twice(tmp_path):
    finished, log = run("plain", tmp_path, SIMCUDA_CUPTI_VMM=1, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True")
    created = sum(event.size for event in log if event.what == "create")
    taken = sum(event.size for event in log if event.what == "alloc" and event.device == 0)
    db = finished.db()
    assert created > 0 and taken > 0
    assert db.one("SELECT sum(size_bytes) FROM v_allocation WHERE level = 'segment' AND source = 'call'") == created
    assert db.one("SELECT sum(size_bytes) FROM v_allocation WHERE level = 'segment' AND source = 'cupti'") == taken


def notes(db):
    return [(row["severity"], row["what"]) for row in db.rows("SELECT * FROM v_note") if "CUPTI" in row["what"]]


def test_sim_dropped_records_are_noted(tmp_path):
    db = run("plain", tmp_path, SIMCUDA_CUPTI_DROP=2)[0].db()
    ((severity, note),) = notes(db)
    assert severity == "degraded" and "dropped" in note


@pytest.mark.parametrize("value,severity", [("auto", "info"), ("on", "degraded")])
def test_sim_without_a_driver_one_line_says_so(value, severity, tmp_path):
    db = run("plain", tmp_path, SIMCUDA_CUPTI_NO_DRIVER=1, NNMEM_CUPTI=value)[0].db()
    assert [found for found, _ in notes(db)] == [severity]
    assert db.one("SELECT count(*) FROM v_allocation WHERE source = 'cupti'") == 0


@pytest.mark.parametrize("settings,noted", [({"NNMEM_CUPTI": "off"}, 0), ({"CUDA_INJECTION64_PATH": "/nowhere.so"}, 1)])
def test_sim_cupti_is_left_alone_when_it_should_be(settings, noted, tmp_path):
    db = run("plain", tmp_path, **settings)[0].db()
    assert db.one("SELECT count(*) FROM v_allocation WHERE source = 'cupti'") == 0
    assert db.one("SELECT count(*) FROM v_allocation WHERE source = 'call'") > 0
    assert len(notes(db)) == noted


def test_another_subscriber_does_not_matter(tmp_path):
    """One holds the subscription, as nsys does: it is not what is shared."""
    finished, log = run("plain", tmp_path, SIMCUDA_CUPTI_SUBSCRIBED=1)
    assert by_nnmem(finished.db()) == by_driver(log)


REAL = """
import ctypes, torch
torch.ones(10)
place = ctypes.c_void_p()
print(ctypes.CDLL(None).cudaMalloc(ctypes.byref(place), ctypes.c_size_t(1000)))
torch.ones(10)
"""


@pytest.mark.parametrize("value,severity", [("auto", "info"), ("on", "degraded")])
def test_the_real_libcupti_without_a_driver_is_one_line(value, severity, tmp_path):
    """No simulation: NVIDIA's own libcudart and libcupti, of PyTorch's wheel, where there is no driver."""
    finished = harness.run([harness.python_of(rig.VERSION), "-c", REAL], tmp_path, preload=[harness.HOOK], NNMEM_CUPTI=value)
    assert int(finished.out) > 0  # no driver, or one that is too old
    ((found, note),) = notes(finished.db())
    assert found == severity and "no device" in note
