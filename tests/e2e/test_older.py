"""PyTorch 1.13.1 as Debian ships it: bytes, phases, steps, layers, categories and operations, as far as it tells them.

The tests are those of the newer versions, on fewer nets; what differs is said in expected.py and here.
"""

import json

import pytest

import harness
import test_exact
import test_operations
import test_tags
import test_threads

older = pytest.mark.parametrize("version", harness.OLDER_VERSIONS)

# What record_function() makes in each Optimizer.step() and zero_grad() for its own use.
FOR_THE_PROFILER = {4, 288}


@older
@pytest.mark.parametrize("net,batch", [("E1", 1), ("E1+ReLU", 64), ("E2", 64), ("E3", 1)])
def test_step_when_older_then_equals_witness_and_table(version, net, batch, tmp_path):
    test_exact.test_step_when_steady_then_equals_witness_and_table(version, net, batch, tmp_path)


@older
def test_optimizer_when_older_then_keeps_what_the_table_says(version, tmp_path):
    test_exact.test_optimizer_when_e2_is_trained_then_keeps_what_the_table_says(version, "adam", tmp_path)


@older
def test_categories_when_older_then_are_those_of_table_r1(version, tmp_path):
    test_exact.test_categories_when_e2_is_trained_then_are_those_of_table_r1(version, tmp_path)


@older
def test_run_when_older_then_every_event_is_there_in_order(version, tmp_path):
    test_exact.test_run_when_watched_as_a_whole_then_every_event_is_there_in_order(version, "transformer", 4, "adamw", tmp_path)


@older
def test_user_profiler_when_older_then_sees_what_it_saw_without(version, tmp_path):
    """The kineto sessions; a bare run's legacy profiler does not repeat its own sums here."""
    seen = {}
    for name, preload in (("bare", ()), ("hooked", (harness.HOOK,))):
        (tmp_path / name).mkdir()
        harness.script(version, "user_profiler.py", "out.json", folder=tmp_path / name, preload=preload)
        seen[name] = json.loads((tmp_path / name / "out.json").read_text())["sessions"]
    assert all(len(session) > 200 for session in seen["bare"])
    assert seen["hooked"] == seen["bare"]


@older
@pytest.mark.parametrize("way", ["plain", "closure", "checkpoint", "checkpoint_reentrant", "gan", "accumulate"])
def test_phases_when_older_then_are_what_the_script_says(version, way, tmp_path):
    test_tags.test_phases_when_trained_in_many_ways_then_are_what_the_script_says(version, way, tmp_path)


@older
@pytest.mark.parametrize("net", ["odd", "transformer"])
def test_layers_when_older_then_are_those_of_its_module_calls(version, net, tmp_path):
    test_tags.test_layers_when_a_net_is_trained_then_are_those_of_its_module_calls(version, net, tmp_path)


@older
def test_threads_when_older_then_every_event_of_each_is_there(version, tmp_path):
    test_threads.test_threads_when_they_train_at_once_then_every_event_of_each_is_there(version, 2, 3, tmp_path)


@older
def test_operations_when_older_then_as_the_tree_says(version, tmp_path):
    run = test_operations.Recorded(version, tmp_path, "E3", 8, "momentum")
    db = run.done.db()
    wrong, witnessed = test_operations.differences(run.said["tree"], test_operations.rows_of(db))
    assert {size for size, *_ in wrong} <= FOR_THE_PROFILER
    assert {row["id"] for row in db.rows("SELECT id FROM v_peak")} <= witnessed


@older
def test_info_when_older_then_says_what_is_not_told(version, tmp_path):
    db, _ = test_exact.train(version, tmp_path, "E1", 1, "sgd", 2, "out.json", "witness=none")
    ((severity, what),) = db.rows("SELECT severity, what FROM v_note")
    assert severity == "info"
    assert what == (
        "PyTorch 1.13.0a0: what a checkpoint without reentrance saves before it runs a module again is told as backward, "
        "not as recompute"
    )
    assert what in " ".join(harness.report("info", tmp_path / "run.db").out.split())


# A module that checkpoints what is no module.
FUNCTIONAL = """
import torch
from torch.utils.checkpoint import checkpoint

class Net(torch.nn.Module):
    def forward(self, x):
        return checkpoint(lambda x: (x.sigmoid() * 2).exp() * 3, x, use_reentrant=REENTRANT)

net = Net()
weight = torch.ones(700, requires_grad=True)
for _ in range(2):
    net(weight * 2).sum().backward()
"""


@older
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_when_older_and_without_modules_then_what_runs_again_is_recompute(version, reentrant, tmp_path):
    source = FUNCTIONAL.replace("REENTRANT", str(reentrant))
    db = harness.run([harness.python_of(version), "-c", source], tmp_path).db()
    rows = db.rows("SELECT layer, operation FROM v_allocation WHERE recompute AND phase = 'backward' AND size_bytes = 2800")
    assert [tuple(row) for row in rows] == 2 * [("", f"aten::{name}") for name in ("sigmoid", "mul", "exp", "mul")]
