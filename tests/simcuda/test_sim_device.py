"""Where a device's memory is: what the hook records beside blocks and segments, and what the views make of it.

The witnesses are PyTorch's snapshot and statistics and the simulated driver's log, not ours.  No GPU is involved.
"""

import json

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
# What goes past the hook.
UNSEEN = {"by_a_library": 4 << 20}


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


# ---- the views


def view(simulated, *arguments):
    """Rows of a view as dictionaries, by their kind."""
    out = harness.report(*arguments, simulated.finished.folder / "run.db", "--format=json").out
    kinds = {}
    for row in map(json.loads, out.splitlines()):
        kinds.setdefault(row["row"], []).append(row)
    return kinds


def regions(segments):
    """PyTorch's segments: {address: (size, [(offset, size, bytes asked for) of each block given out])}."""
    return {
        segment["address"]: (
            segment["total_size"],
            [
                (block["address"] - segment["address"], block["size"], block["requested_size"])
                for block in segment["blocks"]
                if block["state"] == "active_allocated"
            ],
        )
        for segment in segments
    }


def free_pieces(segments):
    """What is free in PyTorch's segments: the bytes of each piece."""
    pieces = []
    for size, blocks in regions(segments).values():
        ends = [0, *(offset + length for offset, length, _ in blocks)]
        pieces += [start - end for start, end in zip([*(offset for offset, *_ in blocks), size], ends) if start > end]
    return pieces


def test_sim_segments_are_pytorchs(recorded):
    name, simulated, _ = recorded
    rows = view(simulated, "segments", "--at=end")
    ours = {
        row["address"]: (
            row["size_bytes"],
            [
                (block["offset_bytes"], block["size_bytes"], block["requested_bytes"])
                for block in rows["block"]
                if block["number"] == row["number"]
            ],
        )
        for row in rows["segment"]
        if row["of_pytorch"]
    }
    asked_for = {block["id"]: block["requested_bytes"] for block in rows["block"]}
    expected = regions(simulated.said["segments"])
    (whole,) = rows["segments"]
    pieces = free_pieces(simulated.said["segments"])

    assert {address: size for address, (size, _) in ours.items()} == {address: size for address, (size, _) in expected.items()}
    for address, (_, blocks) in ours.items():
        assert [block[:2] for block in blocks] == [block[:2] for block in expected[address][1]]
        assert all(got is None or got == wanted for (_, _, got), (_, _, wanted) in zip(blocks, expected[address][1]))
    assert sum(asked is None for asked in asked_for.values()) == 2  # cuBLAS's
    stats = simulated.said["stats"][0]
    assert whole["reserved_bytes"] == stats["reserved_bytes.all.current"]
    assert whole["allocated_bytes"] == stats["allocated_bytes.all.current"]
    assert whole["reserved_peak_bytes"] == stats["reserved_bytes.all.peak"]
    assert (whole["gaps"], whole["free_bytes"], whole["largest_free_bytes"]) == (len(pieces), sum(pieces), max(pieces))
    assert whole["expandable"] == (name == "expandable")
    assert whole["near_misses"] == stats["num_alloc_retries"] - stats["num_ooms"]
    others = [row["size_bytes"] for row in rows["segment"] if not row["of_pytorch"]]
    assert others == ([SEEN[name]] if name in SEEN else [])


@pytest.mark.parametrize("at", ["peak", "end"])
def test_sim_the_ledger_closes_to_the_byte(recorded, at):
    name, simulated, _ = recorded
    rows = view(simulated, "ledger", f"--at={at}")["line"]
    total = 0
    for row in rows:
        total = total if row["is_sum"] else total + row["bytes"]
        if row["is_sum"]:
            assert row["bytes"] == total, row["line"]
    line = {row["line"]: row["bytes"] for row in rows}

    assert rows[-1]["line"] == "used"
    assert line["context"] == simulated.context(0)
    # What nobody reports: a handle of cuBLAS for each of two threads, and what goes past the hook.
    by_cublas = sum(event.size for event in simulated.log if event.what == "alloc" and event.caller == "sim-cublas.so")
    assert line["unexplained"] == by_cublas + UNSEEN.get(name, 0) and by_cublas > 0
    if at == "end":
        stats = simulated.said["stats"][0]
        assert line["used"] == simulated.said["used"][0]
        assert line["allocated"] == stats["allocated_bytes.all.current"]
        assert line["reserved"] == stats["reserved_bytes.all.current"]
        # PyTorch knows what cuBLAS asked for, too.
        assert line["requested"] + line["request_unknown"] == stats["requested_bytes.all.current"]
        assert line.get("library", 0) == SEEN.get(name, 0)
    else:
        assert line["allocated"] == simulated.said["peak"][0]


def test_sim_no_memory_is_unexplained_where_all_is_seen(tmp_path):
    settings = {"NNMEM_OUT": tmp_path / "run.db", "SCENARIO_ENDS": "at_once", "SIMCUDA_SEED": 7}
    simulated = rig.run("no_library", tmp_path, preload=(harness.HOOK,), **settings)
    line = {row["line"]: row["bytes"] for row in view(simulated, "ledger")["line"]}

    assert line["context"] == simulated.context(0) > 0
    assert line["unexplained"] == 0
    assert line["used"] == simulated.context(0) + line["reserved"]


def test_sim_no_memory_is_unexplained_where_cupti_tells_of_libraries(tmp_path):
    # CUPTI tells late: what it has when a process ends at once is not told any more.
    simulated = rig.run("by_a_library", tmp_path, preload=(harness.HOOK,), NNMEM_OUT=tmp_path / "run.db", NNMEM_CUPTI="on")
    by_cublas = sum(event.size for event in simulated.log if event.what == "alloc" and event.caller == "sim-cublas.so")
    rows = view(simulated, "ledger")["line"]
    line = {row["line"]: row["bytes"] for row in rows}
    libraries = sum(row["bytes"] for row in rows if row["line"] == "library")

    assert line["context"] == simulated.context(0)
    assert line["unexplained"] == 0
    assert libraries == by_cublas + SEEN["by_a_library"] + UNSEEN["by_a_library"] and by_cublas > 0
    assert line["used"] == line["reserved"] + libraries + line["context"] == simulated.said["used"][0]


def test_sim_expandable_segments_reserve_what_was_estimated(tmp_path):
    for setting in ("False", "True"):
        (tmp_path / setting).mkdir()
    said = [
        rig.run(
            "fragments",
            tmp_path / setting,
            preload=(harness.HOOK,),
            NNMEM_OUT=tmp_path / setting / "run.db",
            PYTORCH_CUDA_ALLOC_CONF=f"expandable_segments:{setting}",
        )
        for setting in ("False", "True")
    ]
    (whole,) = view(said[0], "segments")["segments"]

    assert whole["reserved_peak_bytes"] == said[0].said["stats"][0]["reserved_bytes.all.peak"]
    assert whole["expandable_estimate_bytes"] == said[1].said["stats"][0]["reserved_bytes.all.peak"]
    assert whole["expandable_estimate_bytes"] < whole["reserved_peak_bytes"]


def test_sim_an_oom_is_explained_though_the_process_is_killed(tmp_path):
    killed = rig.run(
        "fragmented", tmp_path, preload=(harness.HOOK,), check=False, NNMEM_OUT=tmp_path / "run.db", SIMCUDA_MEMORY=1 << 30
    )
    assert killed.finished.status == -9
    said = json.loads(killed.finished.out.splitlines()[-1])
    rows = view(killed, "oom")
    (oom,) = rows["oom"]
    pieces = free_pieces(said["segments"])
    page = 2 << 20

    assert (oom["size_bytes"], oom["near_miss"], oom["phase"], oom["root"]) == (400 << 20, False, "forward", "Wide")
    assert (oom["operation"], oom["line"].rsplit(".", 2)[-1]) == ("aten::empty", "forward)")
    assert oom["step"] >= 1
    assert oom["allocated_bytes"] == said["stats"]["allocated_bytes.all.current"]
    assert oom["reserved_bytes"] == said["stats"]["reserved_bytes.all.current"]
    assert (oom["free_bytes"], oom["largest_free_bytes"], oom["gaps"]) == (sum(pieces), max(pieces), len(pieces))
    assert oom["driver_total_bytes"] - oom["driver_used_bytes"] == said["free"]
    assert oom["fits_bytes"] == max(max(pieces), said["free"] // page * page) < oom["size_bytes"]
    assert oom["cause"] == "fragmented"
    assert sum(row["bytes"] for row in rows["category"]) == oom["allocated_bytes"]
    assert sum(row["bytes"] for row in rows["layer"]) == oom["allocated_bytes"]
    assert sorted(row["bytes"] for row in rows["gap"]) == sorted(pieces)
    # The largest piece lies behind the block that was kept, up to the end of the segment.
    largest = max(rows["gap"], key=lambda row: row["bytes"])
    kept = killed.finished.db().one(f"SELECT size_bytes FROM v_allocation WHERE id = {largest['before_block']}")
    assert (kept, largest["after_block"]) == (20 << 20, None)
    assert rows["advice"][0]["advice"] == "expandable_segments"
    text = harness.report("oom", tmp_path / "run.db").out
    assert "fragmentation" in text and "400.0 MiB" in text


def test_sim_a_retry_that_succeeds_is_a_near_miss(tmp_path):
    simulated = rig.run("free_and_retry", tmp_path, preload=(harness.HOOK,), NNMEM_OUT=tmp_path / "run.db")
    (row,) = view(simulated, "oom")["oom"]

    assert (row["near_miss"], row["size_bytes"]) == (True, 4 << 30)
    assert view(simulated, "segments")["segments"][0]["near_misses"] == 1
    assert harness.report("oom", tmp_path / "run.db").out.startswith("\nNear miss 1 on cuda:0: 4 294 967 296 bytes")


def test_sim_tensors_are_accounted_for_where_the_allocator_reports_no_blocks(tmp_path):
    settings = {"SCENARIO_ENDS": "at_once", "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    simulated = rig.run("kept", tmp_path, preload=(harness.HOOK,), NNMEM_OUT=tmp_path / "run.db", **settings)
    sign = {"pool_alloc": 1, "pool_free": -1}
    alive = sum(sign.get(event.what, 0) * event.size for event in simulated.log if event.device == 0)
    rows = view(simulated, "ledger", "--at=end")["line"]
    line = {row["line"]: row["bytes"] for row in rows}

    assert line["direct"] == alive > 0
    assert line["used"] == sum(row["bytes"] for row in rows if not row["is_sum"])
    assert "reports no blocks" in harness.report("ledger", tmp_path / "run.db").out
    assert "PyTorch reported no block of cuda:0" in harness.report("segments", tmp_path / "run.db").out
