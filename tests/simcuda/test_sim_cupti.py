"""The simulated CUPTI: what torch.profiler, unmodified, makes of it, and what a client of its own gets of the driver's memory.

The driver's log is the rig's own account; records come through CUPTI's public interface to cupti_client.c.  No GPU is
involved, and nothing here says what the real CUPTI does, but for the codes that it gives without a driver.
"""

import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
import typing

import harness
import pytest
import rig

SCENARIOS = pathlib.Path(__file__).resolve().parent / "cupti_scenarios.py"
CLIENT = rig.SIMULATED / "cupti_client.so"
MEMSET, DRIVER, RUNTIME, MEMORY2, MEMORY_POOL = 2, 4, 5, 49, 50
CALLS, RESOURCE = 2, 3  # domains
CUDA_MALLOC, CUDA_FREE = 20, 22
PINNED, DEVICE, ARRAY, MANAGED = 2, 3, 4, 5
NONE = 0xFFFFFFFF  # a context or a stream
MAX_LIMIT_REACHED = 12

# The log's words for allocations and releases, and CUPTI's kind of memory.
TAKEN = {"alloc": DEVICE, "pool_alloc": DEVICE, "managed_alloc": MANAGED, "host_alloc": PINNED, "array_alloc": ARRAY}
GIVEN = {"free": DEVICE, "pool_free": DEVICE, "managed_free": MANAGED, "host_free": PINNED, "array_free": ARRAY}


@dataclasses.dataclass(frozen=True)
class Memory:
    operation: int  # 1: taken, 2: given back
    kind: int
    device: int
    address: int
    bytes: int
    context: int
    stream: int
    is_async: int
    pool: int
    threshold: int
    pool_size: int
    pool_used: int
    timestamp: int
    correlation: int
    source: str


class Buffer(typing.NamedTuple):
    thread: int  # that gave it back
    records: int
    valid: int  # bytes
    dropped: int
    ended: int  # what the walk over it ended with
    dirty: int  # bytes after the records that are not zero


@dataclasses.dataclass
class Ran:
    """A scenario that has ended: what it printed, what the client wrote, line by line, and what the driver logged."""

    finished: harness.Finished
    lines: list
    log: list

    @property
    def said(self):
        return json.loads(self.finished.out.splitlines()[-1])

    def memory(self, lines=None):
        """MEMORY2 records in the order in which they came."""
        found = [line[1:] for line in (self.lines if lines is None else lines) if line[0] == "memory"]
        return [Memory(*(int(word, 0) for word in words[:-1]), words[-1]) for words in found]

    def until(self, mark):
        return self.lines[: self.lines.index(["mark", mark])]

    def after(self, mark):
        return self.lines[self.lines.index(["mark", mark]) + 1 :]

    def buffers(self):
        return [Buffer(*(int(word) for word in line[1:])) for line in self.lines if line[0] == "buffer"]

    def calls(self):
        return {line[1]: int(line[2]) for line in self.lines if line[0] == "call"}


def run(name, folder, *arguments, client=True, **settings):
    finished = harness.run(
        [harness.python_of(rig.VERSION), SCENARIOS, name, *arguments],
        folder,
        preload=[*([CLIENT] if client else []), *rig.LIBRARIES],
        CLIENT_LOG=folder / "client.log",
        **{"CLIENT_KINDS": MEMORY2, "CLIENT_CLOCK": 1, **rig.settings_of(folder, settings)},
    )
    path = folder / "client.log"
    lines = [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []
    return Ran(finished, lines, rig.read_log(folder / "driver.log"))


def by_driver(log, taken=TAKEN, given=GIVEN):
    """(operation, kind, device, address, bytes) of allocations and releases; the host's memory is on the current device."""
    return [
        (1 if event.what in taken else 2, (taken | given)[event.what], max(event.device, 0), event.address, event.size)
        for event in log
        if event.what in taken | given
    ]


def by_cupti(records):
    """The same of records."""
    return [(record.operation, record.kind, record.device, record.address, record.bytes) for record in records]


def in_time(records):
    return sorted(records, key=lambda record: record.timestamp)


# torch.profiler ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    ran = run("profile_twice", tmp_path_factory.mktemp("profiled"), client=False)
    return ran, traces_of(ran)


def traces_of(ran):
    """The two traces of profile_twice, by category."""
    traces = []
    for i in range(2):
        by_category = collections.defaultdict(list)
        for event in json.loads((ran.finished.folder / f"trace-{i}.json").read_text())["traceEvents"]:
            by_category[event.get("cat")].append(event)
        traces.append(by_category)
    return traces


def names(events):
    return collections.Counter(event["name"] for event in events)


def test_sim_profiler_has_a_kernel_for_each_launch(profiled):
    for trace in profiled[1]:
        launches = [event for event in trace["cuda_runtime"] if event["name"] == "__cudaLaunchKernel"]
        by_correlation = {event["args"]["correlation"]: event for event in launches}
        kernels = trace["kernel"]
        assert len(kernels) > 10
        assert sorted(event["args"]["correlation"] for event in kernels) == sorted(by_correlation)
        assert any("multi_tensor_apply_kernel" in event["name"] for event in kernels), "the optimizer's"
        operators = {event["args"]["External id"] for event in trace["cpu_op"]}
        for kernel in kernels:
            launch = by_correlation[kernel["args"]["correlation"]]
            # In us, written with three digits.
            assert launch["ts"] - 0.01 <= kernel["ts"]
            assert kernel["ts"] + kernel["dur"] <= launch["ts"] + launch["dur"] + 0.01
            assert kernel["args"]["External id"] in operators, "what the program did when it launched"
        # Two threads launch: the program's, and autograd's.
        assert len({event["tid"] for event in launches}) == 2


def test_sim_profiler_has_the_copies_and_fills_that_were_made(profiled):
    for trace in profiled[1]:
        copies = [(event["name"], event["args"]["bytes"]) for event in trace["gpu_memcpy"]]
        assert ("Memcpy HtoD (Pinned -> Device)", 16 * 64 * 4) in copies
        assert names(trace["cuda_runtime"])["cudaMemcpyAsync"] == len(copies)
        assert trace["gpu_memset"] and names(trace["cuda_runtime"])["cudaMemsetAsync"] == len(trace["gpu_memset"])
        assert {event["name"] for event in trace["gpu_memset"]} == {"Memset (Device)"}


def test_sim_profiler_sees_the_allocations_of_its_time_alone(profiled):
    ran, traces = profiled
    seen = [names(trace["cuda_runtime"])["cudaMalloc"] for trace in traces]
    logged = sum(event.what == "alloc" and event.caller == "sim-cudart.so" for event in ran.log)
    assert all(seen) and sum(seen) < logged
    # Of the calls that one makes of another, the first is a call of the program's.
    assert not traces[0]["cuda_driver"]


def test_sim_profiler_is_not_disturbed_by_small_buffers_and_disorder(profiled, tmp_path):
    disturbed = run("profile_twice", tmp_path, client=False, SIMCUDA_CUPTI_BUFFER=1000, SIMCUDA_CUPTI_REVERSE=1)
    for trace, other in zip(profiled[1], traces_of(disturbed), strict=True):
        for category in ("cuda_runtime", "kernel", "gpu_memcpy", "gpu_memset"):
            assert names(trace[category]) == names(other[category])


# A client of memory --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run("train_as_client", tmp_path_factory.mktemp("trained"), CLIENT_KINDS=f"{MEMORY2} {RUNTIME} {DRIVER}")


def test_sim_client_gets_a_record_for_each_event_of_the_driver(trained):
    records = in_time(trained.memory())
    assert len(records) > 5 and {record.kind for record in records} == {DEVICE, PINNED}
    assert by_cupti(records) == by_driver(trained.log)
    assert records[-1].timestamp < 1e6, "by the client's clock, which counts"
    assert {(record.context, record.stream, record.is_async) for record in records} == {(1, NONE, 0)}
    # Each thread that made records has buffers of its own, and all of a buffer is records.
    assert len(trained.buffers()) >= 2
    assert {(buffer.dropped, buffer.ended) for buffer in trained.buffers()} == {(0, MAX_LIMIT_REACHED)}
    # The client gave them as they were; CUPTI made them zero.
    assert {buffer.dirty for buffer in trained.buffers()} == {0}


def test_sim_source_is_the_library_that_called(trained):
    sources = [pathlib.Path(record.source).name for record in in_time(trained.memory())]
    callers = [event.caller for event in trained.log if event.what in TAKEN | GIVEN]
    by_library = {caller: {s for c, s in zip(callers, sources) if c == caller} for caller in callers}
    # The log's caller is who called the driver; a call of the runtime is its caller's.
    assert by_library == {"sim-cublas.so": {"sim-cublas.so"}, "sim-cudart.so": {"libc10_cuda.so", "libtorch_cuda.so"}}


def test_sim_record_has_the_correlation_of_its_call(trained):
    calls = {int(line[3]): int(line[1]) for line in trained.lines if line[0] == "call-record"}
    for record in trained.memory():
        assert calls[record.correlation] == (DRIVER if "sim-cublas" in record.source else RUNTIME)


def test_sim_kinds_of_memory(tmp_path):
    ran = run("all_kinds_of_memory", tmp_path, CLIENT_KINDS=f"{MEMORY2} {MEMORY_POOL}", CLIENT_NO_SOURCE=1, SIMCUDA_DEVICES=2)
    records = ran.memory()
    assert by_cupti(records) == by_driver(ran.log)
    assert {record.kind for record in records} == {PINNED, DEVICE, MANAGED, ARRAY} and len(records) == 16
    # Memory is its device's; the call is the current one's, on which a device's memory may be given back that is another's.
    assert [(record.device, record.context) for record in records[-3:]] == [(1, 2), (0, 2), (1, 2)]
    assert {(record.device, record.context) for record in records[:-3]} == {(0, 1)}
    assert {record.source for record in records} == {"-"}, "nobody asked for it"

    mib, own = 1 << 20, ran.said["pool"]
    pooled = [record for record in records if record.pool]
    assert [record.pool == own for record in pooled] == [True, False, True, False]
    assert [record.is_async for record in pooled] == [1, 1, 1, 0], "cudaFree waits"
    assert [record.stream for record in pooled] == [13, 7, 13, NONE]
    assert pooled[2].threshold == 64 * mib and pooled[2].pool_size == pooled[2].pool_used == 10 * mib

    pools = [[int(word, 0) for word in line[1:7]] for line in ran.lines if line[0] == "pool"]
    created, trimmed, destroyed = 1, 3, 2
    assert pools == [
        [created, 0, own, 0, 0, 0],
        [trimmed, 0, own, 10 * mib, 64 * mib, mib],
        [destroyed, 0, own, mib, 64 * mib, 0],
    ]


def test_sim_virtual_memory_is_recorded_on_request(tmp_path):
    ran = run("all_kinds_of_memory", tmp_path, SIMCUDA_CUPTI_VMM=1, SIMCUDA_DEVICES=2)
    assert by_cupti(ran.memory()) == by_driver(ran.log, {**TAKEN, "create": DEVICE}, {**GIVEN, "release": DEVICE})
    assert len(ran.memory()) == 18


def test_sim_a_lie_of_the_log_is_no_lie_of_the_records(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_MUTATE="drop:4")
    assert len(ran.memory()) == 40 and len(by_driver(ran.log)) == 39


def test_sim_a_second_registration_takes_the_records(tmp_path):
    ran = run("train_as_client_beside_the_profiler", tmp_path)
    records, events = in_time(ran.memory()), by_driver(ran.log)
    assert 0 < len(records) < len(events) and by_cupti(records) == events[: len(records)]
    # It got what was in its buffers when torch.profiler registered callbacks of its own, which it did for good.
    assert [line[0] for line in ran.until("profiler")] == ["call"] * 4 and ran.memory(ran.until("profiled")) == ran.memory()
    assert ran.after("profiled") == [["call", "cuptiActivityFlushAll", "0"]]
    # It took the client's records for its own, and has its trace nonetheless.
    assert '"cat": "kernel"' in (tmp_path / "trace-0.json").read_text()


def test_sim_a_profiler_that_tears_down_ends_every_session(tmp_path):
    ran = run("train_as_client_beside_the_profiler", tmp_path, TEARDOWN_CUPTI=1)
    assert ran.after("profiled") == [["call", "cuptiActivityFlushAll", "7"]]
    assert '"cat": "kernel"' in (tmp_path / "trace-0.json").read_text()


def test_sim_a_subscriber_before_it_keeps_the_profiler_from_the_device(tmp_path):
    ran = run("train_as_client_beside_the_profiler", tmp_path, CLIENT_SUBSCRIBE=RESOURCE)
    assert ["heard", "3", "1", "-1"] in ran.lines, "that a context was made"
    assert by_cupti(in_time(ran.memory())) == by_driver(ran.log)
    assert "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED (39)" in ran.finished.err
    assert '"cat": "kernel"' not in (tmp_path / "trace-0.json").read_text()


# Misbehaviour --------------------------------------------------------------------------------------------------------


def sizes(records):
    return [record.bytes if record.operation == 1 else -record.bytes for record in records]


TWENTY = [1000 * (i + 1) for i in range(20)] + [-1000 * (i + 1) for i in range(20)]


def test_sim_without_misbehaviour_records_come_in_order_at_the_flush(tmp_path):
    ran = run("twenty", tmp_path)
    assert sizes(ran.memory()) == TWENTY and not ran.memory(ran.until("flush"))
    assert [(buffer.records, buffer.dropped) for buffer in ran.buffers()] == [(40, 0)]
    assert abs(ran.said["timestamp"] - time.time_ns()) < 600e9, "whatever clock the records have"


def test_sim_without_a_clock_of_the_clients_times_are_of_the_day(tmp_path):
    before = time.time_ns()
    ran = run("twenty", tmp_path, CLIENT_CLOCK=0)
    assert all(before < record.timestamp < time.time_ns() for record in ran.memory()) and sizes(ran.memory()) == TWENTY


def test_sim_single_calls_are_recorded_and_told(tmp_path):
    ran = run("twenty", tmp_path, CLIENT_CALL=CUDA_MALLOC, CLIENT_SUBSCRIBE=CALLS)
    assert [line[1:3] for line in ran.lines if line[0] == "call-record"] == [[str(RUNTIME), str(CUDA_MALLOC)]] * 20
    heard = [[int(word) for word in line[1:]] for line in ran.lines if line[0] == "heard"]
    assert heard == [[CALLS, cbid, site] for cbid in (CUDA_MALLOC, CUDA_FREE) for _ in range(20) for site in (0, 1)]


@pytest.mark.parametrize("one_buffer", (0, 1))
def test_sim_threads_have_buffers_of_their_own_unless_told_otherwise(one_buffer, tmp_path):
    ran = run("many_threads", tmp_path, CLIENT_ONE_BUFFER=one_buffer)
    assert by_cupti(in_time(ran.memory())) == by_driver(ran.log) and len(ran.memory()) == 400
    assert [buffer.records for buffer in ran.buffers()] == ([400] if one_buffer else [100] * 4)


def test_sim_threads_lose_nothing_while_another_one_flushes(tmp_path):
    ran = run("many_threads", tmp_path, "flush", SIMCUDA_CUPTI_BUFFER=600)
    assert by_cupti(in_time(ran.memory())) == by_driver(ran.log) and len(ran.memory()) == 400


def test_sim_an_incomplete_record_keeps_its_buffer_until_it_is_complete_or_forced(tmp_path):
    kinds = f"{MEMORY2} {MEMSET}"
    ran = run("pending", tmp_path, SIMCUDA_CUPTI_PENDING=1, CLIENT_KINDS=kinds)
    assert not ran.memory(ran.until("flushed")) and ran.memory(ran.until("synchronized"))
    filled, again = [line for line in ran.lines if line[0] == "work"]
    assert filled in ran.until("synchronized") and int(filled[2]) > 0
    assert again == ["work", str(MEMSET), "0", "0"]

    (tmp_path / "at_once").mkdir()
    at_once = run("pending", tmp_path / "at_once", CLIENT_KINDS=kinds)
    assert at_once.memory(at_once.until("flushed"))
    assert all(int(line[2]) > 0 for line in at_once.lines if line[0] == "work")


def test_sim_small_buffers_come_when_they_are_full(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_CUPTI_BUFFER=300)
    assert sizes(ran.memory()) == TWENTY and len(ran.memory(ran.until("flush"))) == 38
    assert [buffer.records for buffer in ran.buffers()] == [2] * 20


def test_sim_a_client_may_limit_the_records_of_a_buffer(tmp_path):
    ran = run("twenty", tmp_path, CLIENT_RECORDS=3)
    assert sizes(ran.memory()) == TWENTY
    assert [buffer.records for buffer in ran.buffers()] == [3] * 13 + [1]


def test_sim_a_record_without_room_is_dropped(tmp_path):
    ran = run("twenty", tmp_path, CLIENT_BYTES=100)
    assert [(buffer.records, buffer.dropped) for buffer in ran.buffers()] == [(0, 40)]


def test_sim_a_thread_of_its_own_completes_buffers_before_the_flush_returns(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_CUPTI_WORKER=1, SIMCUDA_CUPTI_BUFFER=600)
    assert sizes(ran.memory(ran.until("flushed"))) == TWENTY
    assert len(ran.buffers()) == 10 and ran.finished.pid not in {buffer.thread for buffer in ran.buffers()}


def test_sim_late_buffers_come_from_another_thread_after_the_flush(tmp_path):
    ran = run("twenty", tmp_path, "late", SIMCUDA_CUPTI_LATE=500)
    assert ran.said["flush"] == 0
    assert not ran.memory(ran.until("flushed")) and sizes(ran.memory()) == TWENTY
    assert [buffer.thread != ran.finished.pid for buffer in ran.buffers()] == [True]


def test_sim_dropped_records_are_counted(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_CUPTI_DROP=4, CLIENT_RECORDS=15)
    assert sizes(ran.memory()) == [size for i, size in enumerate(TWENTY, 1) if i % 4]
    # The first buffer is full when record 21 comes, and 20 has been dropped.
    assert [(buffer.records, buffer.dropped) for buffer in ran.buffers()] == [(15, 5), (15, 5)]


def test_sim_reversed_records_are_all_there(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_CUPTI_REVERSE=1, SIMCUDA_CUPTI_BUFFER=600)
    four = [list(reversed(TWENTY[i : i + 4])) for i in range(0, 40, 4)]
    pairs = [four[i + 1] + four[i] for i in range(0, 10, 2)]
    assert sizes(ran.memory()) == [size for pair in pairs for size in pair]
    assert sizes(in_time(ran.memory())) == TWENTY


def test_sim_finalize_ends_every_session(tmp_path):
    ran = run("finalized", tmp_path)
    assert [record.bytes for record in ran.memory()] == [1000]
    assert ran.after("finalized") == [["call", "cuptiActivityFlushAll", "7"]]


# Codes ---------------------------------------------------------------------------------------------------------------

CODES = """
import ctypes, json, sys
cupti = ctypes.CDLL(sys.argv[1])
number, word = ctypes.c_uint64(), ctypes.c_char_p()
by_reference = ctypes.byref(number)
callback = ctypes.CFUNCTYPE(None)(lambda: None)
buffer = (ctypes.c_uint8 * 256)()
record = ctypes.c_void_p()
calls = [
    ("cuptiGetVersion", by_reference), ("cuptiGetTimestamp", by_reference), ("cuptiActivityFlushAll", 0),
    ("cuptiActivityRegisterCallbacks", None, None), ("cuptiActivityRegisterCallbacks", callback, callback),
    ("cuptiActivityRegisterCallbacks", callback, callback), ("cuptiActivityEnable", 49), ("cuptiActivityEnable", 5),
    ("cuptiActivityEnable", 100000), ("cuptiActivityDisable", 49), ("cuptiActivityFlushAll", 0), ("cuptiActivityFlushAll", 1),
    ("cuptiSubscribe", ctypes.byref(record), callback, None), ("cuptiActivityRegisterTimestampCallback", callback),
    ("cuptiActivityGetNumDroppedRecords", None, 0, by_reference), ("cuptiActivityEnableAllocationSource", 1),
    ("cuptiActivityGetNextRecord", buffer, 0, ctypes.byref(record)),
    ("cuptiActivityGetNextRecord", None, 0, ctypes.byref(record)),
    ("cuptiActivityGetNextRecord", buffer, 256, ctypes.byref(record)),
    ("cuptiActivityPushExternalCorrelationId", 3, ctypes.c_uint64(5)),
    ("cuptiActivityPopExternalCorrelationId", 3, by_reference), ("cuptiActivityEnableRuntimeApi", 20, 1), ("cuptiFinalize",),
]
said = [(name, getattr(cupti, name)(*arguments)) for name, *arguments in calls]
for domain, ids in ((1, range(1, 760)), (2, range(1, 523))):
    for cbid in ids:
        word.value = None
        said.append(("cuptiGetCallbackName", domain, cbid, cupti.cuptiGetCallbackName(domain, cbid, ctypes.byref(word)), str(word.value)))
for result in range(1000):
    if result not in (36, 37):  # which the header has, and the library does not know
        said.append(("cuptiGetResultString", result, cupti.cuptiGetResultString(result, ctypes.byref(word)), str(word.value)))
# The walk over a buffer knows how long a record of each kind is: those that the simulated CUPTI makes.
for kind in (1, 2, 3, 4, 5, 10, 39, 49, 50):
    buffer = (ctypes.c_uint32 * 256)(*[kind] * 256)
    record = ctypes.c_void_p()
    for i in range(3):
        result = cupti.cuptiActivityGetNextRecord(buffer, 700, ctypes.byref(record))
        said.append(("record", kind, result, (record.value or 0) - ctypes.addressof(buffer)))
print(json.dumps(said))
"""


def codes(library, **settings):
    command = [sys.executable, "-c", CODES, str(library)]
    ended = subprocess.run(command, capture_output=True, text=True, env=harness.environment(**settings), check=True)
    return json.loads(ended.stdout)


def test_sim_codes_without_a_driver_are_those_of_the_real_one():
    site = next((harness.VENVS / f".venv-{rig.VERSION}/lib").glob("python3*/site-packages"))
    real = codes(site / "nvidia/cu13/lib/libcupti.so.13")
    assert ["cuptiActivityEnable", 999] in real and ["cuptiActivityRegisterCallbacks", 0] in real
    assert ["record", MEMORY2, 0, 128] in real and ["record", MEMORY2, 0, 256] in real
    assert codes(rig.SIMULATED / "sim-cupti.so", SIMCUDA_CUPTI_NO_DRIVER=1) == real


def test_sim_client_without_a_driver_gets_nothing(tmp_path):
    ran = run("twenty", tmp_path, SIMCUDA_CUPTI_NO_DRIVER=1)
    assert not ran.memory() and ran.said["flush"] == 999
    assert ran.calls()["cuptiActivityRegisterCallbacks"] == 0 and ran.calls()["cuptiActivityEnable"] == 999


def test_sim_calls_of_cupti_that_are_not_simulated_abort_when_strict():
    code = f"""
import ctypes, os
os.environ["SIMCUDA_STRICT"] = "1"
ctypes.CDLL({str(rig.SIMULATED / "sim-cuda.so")!r}, ctypes.RTLD_GLOBAL)
ctypes.CDLL({str(rig.SIMULATED / "sim-cupti.so")!r}).cuptiActivityEnable(38)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=harness.environment(), check=False)
    assert ended.returncode == -6 and "simcuda: not simulated: a kind of record" in ended.stderr
