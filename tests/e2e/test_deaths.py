"""Whatever ends the program or its recorder: the program's own result is unchanged and nothing that it did is missing."""

import pytest

import harness

BOTH = (harness.COUNT, harness.HOOK)

# way: what v_run may say of the end
WAYS = {
    "kill": {"signal 9", "killed"},
    "abort": {"signal 6", "killed"},
    "segv": {"signal 11", "killed"},
    "term": {"signal 15", "killed"},
    "os_exit": {"exit 7"},
    "sys_exit": {"exit 3"},
    "raise": {"exit 1"},
    "exec": {"exec"},
    "kill_recorder": {"exit 0"},
    "kill_both": {"signal 9", "killed"},
}


def assert_complete(db, log, missing=1):
    """The recorded events are those of the log, but for at most @missing that were under way at the death."""
    recorded = [(size, address) for _, size, address, _ in db.sequence()]
    logged = [(size, address) for address, size, _, _ in log.events]
    assert recorded == logged[: len(recorded)]
    assert 0 <= len(logged) - len(recorded) <= missing


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_death_when_in_mid_backward_then_result_is_kept_and_file_complete(version, way, tmp_path):
    bare_folder, folder = tmp_path / "bare", tmp_path / "hooked"
    bare_folder.mkdir()
    folder.mkdir()
    bare = harness.script(version, "deaths.py", way, folder=bare_folder, preload=(), check=False)
    done = harness.script(version, "deaths.py", way, folder=folder, preload=BOTH, check=False)
    assert (done.status, done.out) == (bare.status, bare.out)
    assert bare.out.count("step") == (5 if way == "kill_recorder" else 2)
    if way == "raise":
        assert "RuntimeError: out of patience" in done.err
    harness.wait_until_alone(done.pid)

    recovered = way in ("kill_recorder", "kill_both")
    assert bool(harness.rings_of(done.pid)) == recovered
    shown = harness.report("run.db", folder=folder)
    assert ("recovered" in (shown.out + shown.err).lower()) == recovered
    assert not harness.rings_of(done.pid)

    db = done.db()
    assert db.run()["ended"] in WAYS[way]
    assert db.run()["lost"] == 0
    assert db.run()["audit_failures"] == 0
    assert_complete(db, done.log(), missing=0 if way in ("os_exit", "sys_exit", "raise", "exec", "kill_recorder") else 1)
    assert [row["kind"] for row in db.steps()][:3] == ["setup", "train", "train"]
    # The second time there is nothing to recover.
    again = harness.report("run.db", folder=folder)
    assert again.status == 0
