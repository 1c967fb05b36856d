"""Which operation made each block, against the event tree of PyTorch's own profiler, and what a profiler sees with us there.

The rule: the outermost operator that the innermost module call, or the code outside, called; in an autograd node the node's
class; in one that is Python (torch.autograd.Function), the outermost operator that it called, if any.
"""

import json

import pytest

import harness

# torch.get_rng_state(), which checkpoint calls: no operator makes its tensor.
RNG_STATE = 5056


class Recorded:
    def __init__(self, version, folder, *args, preload=(harness.HOOK,)):
        self.done = harness.script(version, "operations.py", *args, folder=folder, preload=preload, NNMEM_STACKS="python")
        self.said = json.loads((folder / "operations.json").read_text())


@pytest.fixture(scope="module", params=harness.VERSIONS)
def recorded(request, tmp_path_factory):
    run = Recorded(request.param, tmp_path_factory.mktemp("operations"))
    run.version = request.param
    run.db = run.done.db()
    run.rows = rows_of(run.db)
    return run


def rows_of(db):
    return db.rows("SELECT size_bytes, operation, step, phase, id FROM v_allocation ORDER BY alloc_seq")


def differences(tree, rows):
    """Where @rows (of the stretch that @tree is of) and @tree do not agree, and the ids of those rows."""
    sizes = [size for size, _ in tree]
    at = harness.find(sizes, [row["size_bytes"] for row in rows])
    rows = rows[at : at + len(tree)]
    wrong = [
        (size, name, row["operation"], row["phase"])
        for (size, name), row in zip(tree, rows)
        if size != RNG_STATE and row["operation"] != name
    ]
    return wrong, {row["id"] for row in rows}


def test_run_when_operators_are_told_then_sound(recorded):
    recorded.db.assert_sound()


def test_operation_when_a_profiler_watches_then_as_its_tree_says(recorded):
    wrong, _ = differences(recorded.said["tree"], [row for row in recorded.rows if row["step"] < 3])
    assert wrong == []
    names = {name for _, name in recorded.said["tree"]}
    # The tree itself has what the rule speaks of.
    assert {"aten::conv2d", "aten::batch_norm", "Twice", "ConvolutionBackward0", "aten::ones", "aten::linear"} <= names


def test_operation_when_steps_repeat_then_as_in_the_first(recorded):
    def step(number):
        return [(row["size_bytes"], row["operation"]) for row in recorded.rows if row["step"] == number]

    second = step(2)
    for number in range(3, 32):
        assert step(number) == second, number
    # Other sizes, but the same calls.
    assert [name for _, name in step(40)] == [name for _, name in second]
    assert [size for size, _ in step(40)] != [size for size, _ in second]


def test_peak_when_reached_then_what_lives_has_its_operation(recorded):
    rows = recorded.db.rows("SELECT size_bytes, operation, category FROM v_peak")
    assert sum(row["size_bytes"] for row in rows if row["operation"] is None) <= RNG_STATE + 64
    named = {(row["category"], row["operation"]) for row in rows}
    assert ("parameter", "aten::empty") in named and ("optimizer_state", "aten::clone") in named


def test_names_when_stored_then_each_once_and_in_words(recorded):
    rows = recorded.db.rows("SELECT function, file, line FROM frame WHERE kind = 1")
    assert len({row[0] for row in rows}) == len(rows)
    assert all(row["file"] == "" and row["line"] == 0 for row in rows)
    assert not any(row[0].startswith(("N5torch", "_Z")) for row in rows)


def test_profilers_when_we_are_there_then_they_see_what_they_saw(recorded, tmp_path):
    bare = Recorded(recorded.version, tmp_path, preload=()).said
    assert recorded.said["tree"] == bare["tree"]
    assert recorded.said["profile"] == bare["profile"]
    assert recorded.said["trace"] == bare["trace"]


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_operations_when_stacks_are_off_then_none(version, tmp_path):
    run = harness.script(version, "operations.py", folder=tmp_path, NNMEM_STACKS="off")
    assert run.db().one("SELECT count(*) FROM frame") == 0
    run.db().assert_sound()


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
@pytest.mark.parametrize("net, batch, optimizer", [("E2", 8, "adam"), ("E3", 8, "momentum"), ("transformer", 4, "adamw")])
def test_operation_when_alive_at_the_peak_then_as_the_tree_says(version, net, batch, optimizer, tmp_path):
    run = Recorded(version, tmp_path, net, batch, optimizer)
    db = run.done.db()
    wrong, witnessed = differences(run.said["tree"], rows_of(db))
    assert wrong == []
    at_peak = {row["id"] for row in db.rows("SELECT id FROM v_peak")}
    assert at_peak and at_peak <= witnessed
