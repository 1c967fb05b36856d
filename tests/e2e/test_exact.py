"""The recorded bytes equal the witness's and the expected figures, to the byte."""

import json

import pytest

import expected
import harness


def train(version, folder, *args, **options):
    done = harness.script(version, "train.py", *args, folder=folder, **options)
    return done.db(), json.loads((folder / "out.json").read_text())


def alive(db, start_seq, end_seq, category):
    """Most bytes of @category alive at one time from @start_seq to @end_seq."""
    changes = []
    for birth, death, size in db.rows(
        "SELECT alloc_seq, free_seq, size_bytes FROM v_allocation WHERE category = ? AND alloc_seq <= ?", category, end_seq
    ):
        if death is None or death > start_seq:
            changes.append((max(birth, start_seq), size))
            if death is not None and death <= end_seq:
                changes.append((death, -size))
    return max(harness.heights(size for _, size in sorted(changes)))


def boundaries(db, step):
    return tuple(db.one("SELECT start_seq, end_seq FROM step WHERE step = ?", step))


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("net,batch", expected.FIGURES[harness.KNOWN_VERSIONS[0]])
def test_step_when_steady_then_equals_witness_and_table(version, net, batch, tmp_path):
    db, seen = train(version, tmp_path, net, batch, "momentum", 4, "out.json", "witness=3", "eval")
    db.assert_sound()
    witness = seen["step"]
    events, retained, forward_peak, peak, inference_peak = expected.FIGURES[version][net, batch]

    steps = db.steps("train")
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    row = steps[2]
    start, end = boundaries(db, 3)
    recorded = [(size, address) for seq, size, address, _ in db.sequence() if start <= seq <= end]
    assert recorded == [tuple(event) for event in witness["sequence"]]

    assert row["allocs"] + row["frees"] == witness["events"] == events
    assert row["alloc_bytes"] == witness["alloc_bytes"]
    assert row["end_bytes"] - row["start_bytes"] == witness["left"] == 0
    forward = db.one("SELECT * FROM v_phase WHERE step = 3 AND phase = 'forward' AND device = 'cpu'")
    assert forward["end_bytes"] - row["start_bytes"] == witness["retained"] == retained
    assert forward["peak_bytes"] - row["start_bytes"] == witness["forward_peak"]
    assert row["peak_bytes"] - row["start_bytes"] == witness["peak"]
    if expected.peaks_hold(seen["capability"]):
        assert (witness["forward_peak"], witness["peak"]) == (forward_peak, peak)

    inference = db.rows("SELECT alloc_seq, free_seq, size_bytes FROM v_allocation WHERE phase = 'inference' AND free_phase = 'inference'")
    changes = [(birth, size) for birth, _, size in inference] + [(death, -size) for _, death, size in inference]
    inference_height = max(harness.heights(size for _, size in sorted(changes)))
    if expected.peaks_hold(seen["capability"]):
        assert inference_height <= seen["inference"]["peak"] == inference_peak
    assert db.run()["params_bytes"] == expected.PARAMETER_BYTES[net]
    assert db.run()["torch_version"].partition("+")[0] == harness.torch_version(version)


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("net", expected.PEAKS[harness.KNOWN_VERSIONS[0]])
def test_peak_when_the_batch_grows_then_is_that_of_the_table(version, net, tmp_path):
    for batch, peak in expected.PEAKS[version][net].items():
        folder = tmp_path / str(batch)
        folder.mkdir()
        db, seen = train(version, folder, net, batch, "momentum", 3, "out.json", "witness=2")
        row = db.steps("train")[1]
        assert row["peak_bytes"] - row["start_bytes"] == seen["step"]["peak"]
        if expected.peaks_hold(seen["capability"]):
            assert seen["step"]["peak"] == peak


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("optimizer", expected.OPTIMIZERS[harness.KNOWN_VERSIONS[0]])
def test_optimizer_when_e2_is_trained_then_keeps_what_the_table_says(version, optimizer, tmp_path):
    db, seen = train(version, tmp_path, "E2", 64, optimizer, 4, "out.json", "witness=1")
    db.assert_sound()
    state, peak, phase = expected.OPTIMIZERS[version][optimizer]
    first, second = db.steps("train")[:2]
    assert first["end_bytes"] - first["start_bytes"] == seen["step"]["left"] == state
    assert first["peak_bytes"] - first["start_bytes"] == seen["step"]["peak"]
    if expected.peaks_hold(seen["capability"]):
        assert seen["step"]["peak"] == peak
        top = db.one("SELECT phase FROM v_phase WHERE step = 1 ORDER BY peak_bytes DESC LIMIT 1")
        assert top == phase
    assert second["end_bytes"] == second["start_bytes"]
    start, end = boundaries(db, 3)
    assert alive(db, start, end, "optimizer_state") == state


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_categories_when_e2_is_trained_then_are_those_of_table_r1(version, tmp_path):
    db, seen = train(version, tmp_path, "E2", 64, "momentum", 4, "out.json", "witness=3")
    start, end = boundaries(db, 3)
    found = {category: alive(db, start, end, category) for category in expected.R1_E2}
    wanted = dict(expected.R1_E2)
    if not expected.peaks_hold(seen["capability"]):
        del found["forward_temporary"], wanted["forward_temporary"]
    assert found == wanted
    unknown = {row[0] for row in db.rows("SELECT size_bytes FROM v_allocation WHERE category = 'unknown'")}
    assert unknown == expected.UNKNOWN[version]

    # By the rule of birth and death alone, from the witness's events.
    sequence, before = [tuple(e) for e in seen["step"]["sequence"]], seen["step"]["before"]
    born, lives = {}, []
    for at, (size, address) in enumerate(sequence):
        if size > 0:
            born[address] = at
        else:
            lives.append((born.pop(address, None), at, -size))
    def most(test):
        changes = sorted((at, size) for birth, death, size0 in lives if birth is not None and test(birth, death)
                         for at, size in ((birth, size0), (death, -size0)))  # fmt: skip
        return max(harness.heights(size for _, size in changes))

    b, o = before["backward"], before["optimizer"]
    while sequence[o - 1][0] in expected.UNKNOWN[version]:
        o -= 1  # what step() makes for the profiler, which then says that it begins
    seed = b - 1  # the gradient of the loss: the last event before the first node runs
    assert sequence[seed][0] == 4
    assert most(lambda birth, death: death < b) == alive(db, start, end, "forward_temporary")
    assert most(lambda birth, death: birth < seed and b <= death) == alive(db, start, end, "activation")
    assert most(lambda birth, death: seed <= birth and death < o) == alive(db, start, end, "backward_temporary")
    assert most(lambda birth, death: b <= birth < o <= death) == alive(db, start, end, "gradient")

    if expected.peaks_hold(seen["capability"]):
        run = db.run()
        assert (run["peak_bytes"], run["peak_phase"]) == (expected.R1_E2_PEAK, "backward")
        assert db.one("SELECT sum(size_bytes) FROM v_peak") == expected.R1_E2_PEAK


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("net,batch,optimizer", [("E1", 64, "momentum"), ("E3", 64, "adam"), ("transformer", 4, "adamw")])
def test_run_when_watched_as_a_whole_then_every_event_is_there_in_order(version, net, batch, optimizer, tmp_path):
    db, seen = train(version, tmp_path, net, batch, optimizer, 3, "out.json", "witness=all")
    db.assert_sound()
    recorded = [(size, address) for _, size, address, _ in db.sequence()]
    at = harness.find([tuple(event) for event in seen["run"]["sequence"]], recorded)
    assert at < 50, "importing PyTorch makes next to no tensors"
    assert db.run()["events"] == len(recorded)


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_user_profiler_when_hooked_then_sees_what_it_saw_without(version, tmp_path):
    seen = {}
    for name, preload in (("bare", ()), ("hooked", (harness.HOOK,))):
        folder = tmp_path / name
        folder.mkdir()
        harness.script(version, "user_profiler.py", "out.json", folder=folder, preload=preload)
        seen[name] = json.loads((folder / "out.json").read_text())
    assert all(len(session) > 200 for session in seen["bare"]["sessions"])
    assert seen["hooked"] == seen["bare"]


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_losses_when_hooked_then_are_those_of_a_bare_run(version, tmp_path):
    seen = {}
    for name, preload in (("bare", ()), ("hooked", (harness.HOOK,))):
        folder = tmp_path / name
        folder.mkdir()
        harness.script(version, "train.py", "E3", 8, "adam", 3, "out.json", "witness=none", folder=folder, preload=preload)
        seen[name] = json.loads((folder / "out.json").read_text())
    assert seen["hooked"] == seen["bare"]
