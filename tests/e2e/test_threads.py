"""Several threads: nothing is lost, and each thread's events are those that the counting preload saw on it."""

import collections

import pytest

import harness

BOTH = (harness.COUNT, harness.HOOK)


def assert_equal_by_thread(db, log):
    recorded, logged = collections.defaultdict(list), collections.defaultdict(list)
    for _, size, address, thread in db.sequence():
        recorded[thread].append((size, address))
    for address, size, thread, _ in log.events:
        logged[thread].append((size, address))
    assert recorded.keys() == logged.keys()
    for thread, events in logged.items():
        assert recorded[thread] == events


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("threads,steps", [(1, 3), (8, 10)])
def test_threads_when_they_train_at_once_then_every_event_of_each_is_there(version, threads, steps, tmp_path):
    done = harness.script(version, "threads_train.py", threads, steps, folder=tmp_path, preload=BOTH)
    db, log = done.db(), done.log()
    assert len(log.events) > 2_000 * threads * steps
    assert db.run()["events"] == len(log.events)
    db.assert_sound()
    assert_equal_by_thread(db, log)


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_layers_when_training_is_not_on_the_main_thread_then_are_known(version, tmp_path):
    done = harness.script(version, "threads_train.py", 1, 3, folder=tmp_path)
    db = done.db()
    for phase in ("forward", "backward"):
        layers = {row[0] for row in db.rows("SELECT DISTINCT layer FROM v_allocation WHERE phase = ?", phase)}
        assert {"encoder.layers.0.linear1", "encoder.layers.5.norm2", "head"} <= layers
    assert len(db.steps("train")) == 3


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_audit_when_threads_make_equal_tensors_at_once_then_never_fails(version, tmp_path):
    done = harness.script(version, "threads_allocate.py", 4, 10_000, folder=tmp_path)
    db = done.db()
    db.assert_sound()
    assert db.run()["events"] == 4 * 20_000
