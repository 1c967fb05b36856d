"""Where a device's memory is: what the hook records beside blocks and segments, and what the views make of it.

The witnesses are PyTorch's snapshot and statistics and the simulated driver's log, not ours.  No GPU is involved.
"""

import harness
import pytest
import rig

# What each is run with beside its name.
SCENARIOS = {
    "kept": {},
    "transformer_bf16": {},
    "by_a_library": {},
    "out_of_memory": {},
    "expandable": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
}


# What others than PyTorch take through the runtime, of which the hook sees these bytes.
SEEN = {"by_a_library": 6 << 20}


@pytest.fixture(scope="module", params=SCENARIOS)
def recorded(request, tmp_path_factory):
    """(name, what happened, what was recorded) of a scenario that ends at once, with all that is alive."""
    folder = tmp_path_factory.mktemp("device")
    settings = {"NNMEM_OUT": folder / "run.db", "SCENARIO_ENDS": "at_once", **SCENARIOS[request.param]}
    simulated = rig.run(request.param, folder, preload=(harness.HOOK,), **settings)
    return request.param, simulated, simulated.finished.db()


def alive(simulated):
    """PyTorch's blocks that are given out: (address, size, bytes asked for)."""
    return [
        (block["address"], block["size"], block["requested_size"])
        for segment in simulated.said["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]


def test_sim_what_was_asked_for_is_known_of_every_tensor(recorded):
    _, simulated, db = recorded
    rows = db.rows(
        """SELECT address, a.size_bytes, v.requested_bytes, v.category FROM v_allocation v JOIN allocation a USING (id)
           WHERE v.device = 'cuda:0' AND v.level = 'block' AND v.free_seq IS NULL"""
    )
    ours = {row["address"]: (row["size_bytes"], row["requested_bytes"]) for row in rows}
    by_library = {row["address"] for row in rows if row["category"] == "workspace"}

    assert {address: size for address, (size, _) in ours.items()} == {address: size for address, size, _ in alive(simulated)}
    for address, size, requested in alive(simulated):
        assert ours[address] == (size, None if address in by_library else requested)
    # cuBLAS has one for each thread that multiplies: this one's, and the one that runs backward.
    assert sorted(ours[address][0] for address in by_library) == [8519680, 8519680]


def test_sim_the_driver_is_asked(recorded):
    name, simulated, db = recorded
    rows = db.rows("SELECT * FROM v_driver WHERE device = 'cuda:0' ORDER BY seq")

    assert (rows[0]["first"], rows[0]["used_bytes"], rows[0]["segment_bytes"]) == (1, simulated.context(0), 0)
    assert sum(row["first"] for row in rows) == 1
    assert rows[-1]["used_bytes"] == simulated.said["used"][0]
    assert rows[-1]["segment_bytes"] == simulated.said["reserved"][0] + SEEN.get(name, 0)


def test_sim_the_code_that_called_is_known(recorded):
    name, _, db = recorded
    callers = {
        row["file"].rsplit("/", 1)[-1]
        for row in db.rows("SELECT file FROM allocation JOIN object ON caller >= start AND caller < end WHERE level = 1")
    }
    assert "libc10_cuda.so" in callers
    assert any("ffi" in caller for caller in callers) == (name == "by_a_library")
    assert db.one("SELECT count(*) FROM allocation WHERE level > 0 AND caller = 0") == 0


def test_sim_mappings_and_refusals_are_recorded(recorded):
    name, simulated, db = recorded
    query = """SELECT {seq} AS seq, {sign} AS sign, address, size_bytes FROM allocation
               WHERE level = (SELECT code FROM name WHERE list = 'level' AND name = 'mapping') AND {seq} IS NOT NULL"""
    rows = db.rows(f"{query.format(seq='alloc_seq', sign=1)} UNION ALL {query.format(seq='free_seq', sign=-1)} ORDER BY seq")
    sign = {"map": 1, "unmap": -1}
    by_driver = [(sign[event.what], event.address, event.size) for event in simulated.log if event.what in sign]

    assert bool(by_driver) == (name == "expandable")
    assert [(row["sign"], row["address"], row["size_bytes"]) for row in rows] == by_driver
    refused = db.rows("SELECT size_bytes, allocated_bytes, reserved_bytes FROM refusal ORDER BY seq")
    # PyTorch asks once more after it has given back what it can.
    ooms = db.rows("SELECT size_bytes, allocated_bytes, reserved_bytes FROM oom ORDER BY seq")
    assert [tuple(row) for row in refused] == [tuple(row) for row in ooms for _ in range(2)]
