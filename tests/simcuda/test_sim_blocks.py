"""What the hook records of the simulated device, held against PyTorch's own trace and the driver's log.

Both witnesses are PyTorch's and the rig's, not ours.  No GPU is involved.
"""

import harness
import pytest
import rig

# The hook sees all of it; what each is run with beside its name.
SCENARIOS = {
    "mlp_adamw": {},
    "free_and_retry": {},
    "out_of_memory": {},
    "expandable": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    "two_devices": {"SIMCUDA_DEVICES": 2},
    "streams": {"SIMCUDA_EVENT_LAG": 3},
}


@pytest.fixture(scope="module", params=SCENARIOS)
def recorded(request, tmp_path_factory):
    """(name, what happened, what was recorded) of a scenario under the hook."""
    folder = tmp_path_factory.mktemp("blocks")
    simulated = rig.run(request.param, folder, preload=(harness.HOOK,), NNMEM_FILE=folder / "run.db", **SCENARIOS[request.param])
    return request.param, simulated, simulated.finished.db()


def lives(db, level, device):
    """Births and deaths of @level on @device in the order of truth: (+size or -size, address)."""
    query = """SELECT {seq} AS seq, {sign} * size_bytes AS size, address FROM allocation JOIN device ON device.id = device
               WHERE device.name = :device AND {seq} IS NOT NULL
                 AND level = (SELECT code FROM name WHERE list = 'level' AND name = :level)"""
    both = " UNION ALL ".join((query.format(seq="alloc_seq", sign=1), query.format(seq="free_seq", sign=-1)))
    values = {"device": f"cuda:{device}", "level": level}
    return [(row["size"], row["address"]) for row in db.connection.execute(both + " ORDER BY 1", values)]


def test_sim_every_block_is_recorded_in_order(recorded):
    _, simulated, db = recorded
    for device, trace in enumerate(simulated.said["trace"]):
        born = {"alloc": 1, "free_requested": -1}
        said = [(born[action], address) for action, address, _ in trace if action in born]
        blocks = lives(db, "block", device)

        assert [(1 if size > 0 else -1, address) for size, address in blocks[: len(said)]] == said
        assert all(size < 0 for size, _ in blocks[len(said) :]), "after the trace was read, blocks only die"
        running = [sum(size for size, _ in blocks[:count]) for count in range(len(said) + 1)]
        assert running[-1] == simulated.said["allocated"][device]
        assert max(running) == simulated.said["peak"][device]
        assert db.one("SELECT peak_bytes FROM v_device WHERE device = ?", f"cuda:{device}") == simulated.said["peak"][device]


def test_sim_every_segment_is_recorded_in_order(recorded):
    name, simulated, db = recorded
    if name == "expandable":
        # Physical memory is known by its handle; PyTorch asks the driver for it through a pointer that it was handed.
        sign = {"create": 1, "release": -1}
        by_driver = [(sign[event.what] * event.size, event.address) for event in simulated.log if event.what in sign]
        assert by_driver and lives(db, "segment", 0) == by_driver
        return
    for device in range(len(simulated.said["trace"])):
        sign = {"segment_alloc": 1, "segment_free": -1}
        by_driver = [(sign[what] * size, address) for what, address, size in simulated.segments_by_driver(device)]
        assert lives(db, "segment", device) == by_driver


def test_sim_every_running_total_equals_pytorchs(recorded):
    _, _, db = recorded
    run = db.run()
    assert (run["audit_failures"], run["lost"]) == (0, 0)
    assert run["audit_checks"] > 0 and run["peak_device"] == "cuda:0"


def test_sim_an_out_of_memory_is_recorded(recorded):
    name, simulated, db = recorded
    refused = [size for trace in simulated.said["trace"] for action, _, size in trace if action == "oom"]
    assert bool(refused) == (name == "out_of_memory")
    assert [row["size_bytes"] for row in db.rows("SELECT size_bytes FROM v_oom")] == refused
