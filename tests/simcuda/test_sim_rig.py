"""The simulated device itself: an unmodified CUDA build of PyTorch trains on it, and two accounts of it agree.

The allocator's own trace is PyTorch's, the driver's log is the rig's.  Neither knows of the other.  No GPU is involved,
and nothing here says what a real one does.
"""

import ctypes
import itertools
import subprocess
import sys

import pytest
import rig

# Those that show most; test_sim_blocks.py holds the two accounts of every scenario against each other.
NATIVE = ["mlp_adamw", "convnet", "transformer_bf16", "free_and_retry", "two_devices", "graphs", "streams"]
MUTATIONS = ("drop:3", "double:3", "size:3")
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    wanted = {
        "native": (NATIVE, {"SIMCUDA_DEVICES": 2, "SIMCUDA_SEED": 7}),
        "late": (["streams"], {"SIMCUDA_EVENT_LAG": 3}),
        "pinned": (["pinned"], {}),
        "expandable": (["expandable"], EXPANDABLE),
        "expandable_lie": (["expandable"], {**EXPANDABLE, "SIMCUDA_MUTATE": "drop:4"}),
        "traps_strict": (["traps"], {}),
        "traps": (["traps"], {"SIMCUDA_STRICT": 0}),
    }
    wanted |= {mutation: (["free_and_retry"], {"SIMCUDA_MUTATE": mutation}) for mutation in MUTATIONS}
    return rig.run_each(wanted, tmp_path_factory.mktemp("sim"))


@pytest.mark.parametrize("scenario", NATIVE)
def test_sim_trace_of_the_allocator_equals_the_log_of_the_driver(scenario, ended):
    simulated = ended["native"]
    assert simulated.finished.status == 0, simulated.finished.err
    assert simulated.said["name"] == "simcuda (simulated, no GPU)"
    happened = simulated.of(scenario)
    for device, reserved in enumerate(happened.said["reserved"]):
        by_driver = happened.segments_by_driver(device)
        assert by_driver == happened.segments_by_pytorch(device)
        assert by_driver or device == 1
        assert reserved == happened.charged(device, ["sim-cudart.so"])
        # What the driver calls used is segments, the libraries' own memory and the context, and nothing else.
        libraries = happened.charged(device, rig.UNSEEN)
        assert libraries >= 0 and happened.context(device) > 0
        assert happened.said["used"][device] == reserved + libraries + happened.context(device)
    assert happened.charged(0, ["sim-cublas.so"]) > 0


def test_sim_libraries_take_memory_of_their_own(ended):
    taken = [event.caller for event in ended["native"].of("convnet").log if event.caller in rig.UNSEEN]
    assert "sim-cudnn.so" in taken


def test_sim_trace_of_expandable_segments_equals_the_mappings_of_the_driver(ended):
    simulated = ended["expandable"]
    assert simulated.finished.status == 0, simulated.finished.err
    happened = simulated.of("expandable")

    assert {what for what, _, _ in happened.maps_by_driver(0)} == {"segment_map", "segment_unmap"}
    assert happened.maps_by_driver(0) == happened.maps_by_pytorch(0)
    assert happened.charged(0, ["libc10_cuda.so"]) == happened.said["reserved"][0]
    assert happened.said["used"][0] == happened.charged(0) + happened.context(0)


def test_sim_a_lie_about_mappings_is_found(ended):
    simulated = ended["expandable_lie"]
    assert simulated.finished.status == 0, simulated.finished.err
    happened = simulated.of("expandable")
    assert happened.maps_by_driver(0) != happened.maps_by_pytorch(0)


def test_sim_a_lagging_event_defers_the_completed_free(ended):
    def deferral(simulated):
        actions = [action for action, _, _ in simulated.of("streams").trace[0]]
        first = actions.index("free_requested")
        return actions.index("free_completed", first) - first

    assert deferral(ended["late"]) > deferral(ended["native"])


def test_sim_pinned_memory_is_in_the_log(ended):
    assert [event.size for event in ended["pinned"].log if event.what == "host_alloc"] == [1024 * 256 * 4]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_sim_a_lie_of_the_log_is_found(mutation, ended):
    simulated = ended[mutation]
    assert simulated.finished.status == 0, simulated.finished.err
    happened = simulated.of("free_and_retry")
    assert happened.segments_by_driver(0) != happened.segments_by_pytorch(0)


def test_sim_what_is_not_simulated_aborts_when_strict(ended):
    assert ended["traps_strict"].finished.status == -6
    assert "simcuda: not simulated: cufftCreate" in ended["traps_strict"].finished.err


def test_sim_what_is_not_simulated_is_an_error_when_not_strict(ended):
    assert ended["traps"].finished.status == 1
    assert "CUFFT_NOT_SUPPORTED" in ended["traps"].finished.err


def driver():
    library = ctypes.CDLL(str(next(path for path in rig.LIBRARIES if path.name == "sim-cuda.so")))
    assert library.cuInit(0) == 0
    context = ctypes.c_void_p()
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert library.cuCtxSetCurrent(context) == 0
    return library


def test_sim_driver_has_no_private_tables():
    table = ctypes.c_void_p(1)
    assert driver().cuGetExportTable(ctypes.byref(table), (ctypes.c_char * 16)()) == 801


def test_sim_driver_gives_out_the_lowest_gap_that_fits_and_keeps_its_budget():
    library, granule = driver(), 2 << 20
    addresses = [ctypes.c_uint64() for _ in range(3)]
    for address, size in zip(addresses, (granule, 3 * granule, 1)):
        assert library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) == 0
    assert [b.value - a.value for a, b in itertools.pairwise(addresses)] == [granule, 3 * granule]

    assert library.cuMemFree_v2(addresses[1]) == 0
    assert library.cuMemFree_v2(addresses[1]) == 1, "twice freed"
    again = ctypes.c_uint64()
    assert library.cuMemAlloc_v2(ctypes.byref(again), ctypes.c_size_t(granule + 1)) == 0
    assert again.value == addresses[1].value

    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    assert library.cuMemAlloc_v2(ctypes.byref(again), ctypes.c_size_t(free.value + 1)) == 2
    for address in (addresses[0], addresses[1], addresses[2]):
        assert library.cuMemFree_v2(address) == 0


def test_sim_a_freed_range_faults():
    code = f"""
import ctypes
d = ctypes.CDLL({str(rig.harness.BUILD / "simcuda/sim-cuda.so")!r})
context, address = ctypes.c_void_p(), ctypes.c_uint64()
d.cuInit(0), d.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), d.cuCtxSetCurrent(context)
assert d.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(4096)) == 0
ctypes.memset(address.value, 1, 4096)
print("written", flush=True)
d.cuMemFree_v2(address)
ctypes.memset(address.value, 1, 4096)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=rig.harness.environment())
    assert (ended.stdout, ended.returncode) == ("written\n", -11)
