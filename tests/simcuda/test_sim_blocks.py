"""What the hook records of the simulated device, held against PyTorch's own trace and the driver's log.

Both witnesses are PyTorch's and the rig's, not ours.  No GPU is involved.
"""

import itertools

import harness
import pytest
import rig

NATIVE = [
    "mlp_adamw",
    "mlp_fused",
    "convnet",
    "convnet_channels_last",
    "transformer_bf16",
    "attention",
    "embedding",
    "grad_scaler",
    "accumulation",
    "checkpointing",
    "inference",
    "several_optimizers",
    "lbfgs",
    "free_and_retry",
    "out_of_memory",
    "empty_cache_loop",
    "two_devices",
    "streams",
    "mem_pool",
    "graphs",
    "pinned",
    "pinned_loader",
    "save_and_load",
]
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "SIMCUDA_DEVICES": 2}
SPLITTING = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:256,garbage_collection_threshold:0.5"}
# Processes: their scenarios, and what they are run with.
PROCESSES = {
    "native": (NATIVE, {"SIMCUDA_DEVICES": 2, "SIMCUDA_EVENT_LAG": 3}),
    "threads": (["threads"], {"SIMCUDA_SEED": 7}),
    "failure": (["one_failure"], {"SIMCUDA_FAIL_AT": 5}),
    "splitting": (["splitting"], SPLITTING),
    "expandable": (["expandable", "expandable_retry", "two_devices", "graphs", "mem_pool"], EXPANDABLE),
    "registered": (["pinned"], {"PYTORCH_CUDA_ALLOC_CONF": "pinned_use_cuda_host_register:True"}),
}
# The same where PyTorch reports no blocks.
UNREPORTED = {
    "cudaMallocAsync": (["mlp_adamw", "streams", "convnet"], {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}),
    "none": (["mlp_adamw", "convnet"], {"PYTORCH_NO_CUDA_MEMORY_CACHING": 1}),
    "pluggable": (["pluggable"], {"SIM_ALLOCATOR": rig.SIMULATED / "pluggable.so"}),
}
REPORTED = [(process, name) for process, (names, _) in PROCESSES.items() for name in names] + [("ddp0", "ddp"), ("ddp1", "ddp")]


class Recorded:
    """A process under the hook: what happened, and what was recorded."""

    def __init__(self, simulated):
        self.simulated = simulated
        self.db = harness.Db(next(simulated.finished.folder.glob("run*.db")))
        self.devices = range(len(next(iter(simulated.said["scenarios"].values()))["used"]))


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Returns the process of a name, run when it is first asked for."""
    ended = {}

    def get(name):
        if name in ended:
            return ended[name]
        folder = tmp_path_factory.mktemp(name)
        if name.startswith("ddp"):
            ranks = rig.run_ranks("ddp", folder, 2, preload=(harness.HOOK,), SIMCUDA_DEVICES=2)
            ended.update({f"ddp{rank}": Recorded(simulated) for rank, simulated in enumerate(ranks)})
        else:
            names, settings = (PROCESSES | UNREPORTED)[name]
            ended[name] = Recorded(rig.run(names, folder, preload=(harness.HOOK,), **settings))
        return ended[name]

    return get


def lives(db, level, device):
    """Births and deaths of @level on @device in the order of truth: (+size or -size, address)."""
    query = """SELECT {seq} AS seq, {sign} * size_bytes AS size, address FROM allocation JOIN device ON device.id = device
               WHERE device.name = :device AND {seq} IS NOT NULL
                 AND level = (SELECT code FROM name WHERE list = 'level' AND name = :level)"""
    both = " UNION ALL ".join((query.format(seq="alloc_seq", sign=1), query.format(seq="free_seq", sign=-1)))
    values = {"device": "cpu" if device < 0 else f"cuda:{device}", "level": level}
    return [(row["size"], row["address"]) for row in db.connection.execute(both + " ORDER BY 1", values)]


def assert_levels(recorded, before, until):
    """What calls gave and took between two lines of the driver's log, device by device, level by level."""
    for device in (-1, *recorded.devices):
        for level in ("segment", "managed", "pinned"):
            start = len(recorded.simulated.lives(level, device, before))
            by_driver = recorded.simulated.lives(level, device, until)
            assert lives(recorded.db, level, device)[start : len(by_driver)] == by_driver[start:]


@pytest.mark.parametrize("name, scenario", REPORTED)
def test_sim_every_event_is_recorded_in_order(name, scenario, process):
    recorded = process(name)
    happened = recorded.simulated.of(scenario)
    said = happened.said

    for device in recorded.devices:
        # PyTorch and the driver tell the same.
        assert happened.segments_by_driver(device) == happened.segments_by_pytorch(device)
        assert happened.maps_by_driver(device) == happened.maps_by_pytorch(device)
        # The hook's blocks are PyTorch's.
        before = said["nr_traced"][device] - len(happened.trace[device])
        born = {"alloc": 1, "free_requested": -1}
        whole = [(born[action], address) for action, address, _ in recorded.simulated.said["trace"][device] if action in born]
        start = sum(action in born for action, _, _ in recorded.simulated.said["trace"][device][:before])
        end = start + sum(action in born for action, _, _ in happened.trace[device])
        blocks = lives(recorded.db, "block", device)
        assert [(1 if size > 0 else -1, address) for size, address in blocks[start:end]] == whole[start:end]
        heights = list(itertools.accumulate((size for size, _ in blocks[:end]), initial=0))
        assert heights[-1] == said["allocated"][device]
        assert max(heights[start:]) == said["peak"][device]
    # The hook's segments are the driver's.
    assert_levels(recorded, said["nr_lines"] - len(happened.log), said["nr_lines"])


@pytest.mark.parametrize("name", [*PROCESSES, "ddp0", "ddp1"])
def test_sim_every_running_total_equals_pytorchs(name, process):
    recorded = process(name)
    run = recorded.db.run()
    assert (run["audit_failures"], run["lost"]) == (0, 0)
    assert run["audit_checks"] > 0 and run["peak_device"] == ("cuda:1" if name == "ddp1" else "cuda:0")
    for device in recorded.devices:
        last = list(recorded.simulated.said["scenarios"].values())[-1]["nr_traced"][device]
        if not last:
            continue
        peak = max(said["peak"][device] for said in recorded.simulated.said["scenarios"].values())
        assert recorded.db.one("SELECT peak_bytes FROM v_device WHERE device = ?", f"cuda:{device}") == peak
        blocks = lives(recorded.db, "block", device)
        said = sum(action in ("alloc", "free_requested") for action, _, _ in recorded.simulated.said["trace"][device])
        assert all(size < 0 for size, _ in blocks[said:]), "after the trace was read, blocks only die"


@pytest.mark.parametrize("name", PROCESSES)
def test_sim_every_out_of_memory_is_recorded(name, process):
    recorded = process(name)
    refused = [[size for action, _, size in trace if action == "oom"] for trace in recorded.simulated.said["trace"]]
    assert bool(sum(refused, [])) == (name in ("native", "expandable"))
    for device, sizes in enumerate(refused):
        assert [row[0] for row in recorded.db.rows("SELECT size_bytes FROM v_oom WHERE device = ?", f"cuda:{device}")] == sizes


@pytest.mark.parametrize("name", UNREPORTED)
def test_sim_what_other_allocators_take_is_recorded(name, process):
    recorded = process(name)
    last = list(recorded.simulated.said["scenarios"].values())[-1]
    assert recorded.simulated.lives("segment", 0, last["nr_lines"])
    assert_levels(recorded, 0, last["nr_lines"])
    assert recorded.db.run()["lost"] == 0


def test_sim_pools_charge_the_device_for_what_they_keep(process):
    happened = process("cudaMallocAsync").simulated.of("mlp_adamw")
    kept = {"pool_grow": 1, "pool_shrink": -1}
    pool = sum(kept[event.what] * event.size for event in happened.log if event.what in kept)
    given = sum(size for size, _ in process("cudaMallocAsync").simulated.lives("segment", 0, happened.said["nr_lines"]))
    assert 0 < given < pool == happened.said["reserved"][0]
    assert happened.said["used"][0] == happened.charged(0) + happened.context(0)
