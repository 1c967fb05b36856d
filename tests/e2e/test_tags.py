"""Phases, steps and layers equal what the script itself, by ordinary PyTorch means, says it was doing."""

import json

import pytest

import harness

BOTH = (harness.COUNT, harness.HOOK)

RNG_STATE = 5056  # bytes of torch.get_rng_state()


class Tagged:
    """A run of a script that leaves marks.json: its marks, and the recorded allocations by event number."""

    def __init__(self, version, folder, name, *args):
        done = harness.script(version, name, *args, folder=folder, preload=BOTH)
        self.db = done.db()
        self.db.assert_sound()
        log = done.log()
        recorded = self.db.sequence()
        assert [(size, address) for _, size, address, _ in recorded] == [(size, address) for address, size, _, _ in log.events]
        number = {seq: at for at, (seq, *_) in enumerate(recorded)}
        self.allocations = [(number[row["alloc_seq"]], row) for row in self.db.rows("SELECT * FROM v_allocation ORDER BY alloc_seq")]
        self.marks = json.loads((folder / "marks.json").read_text())

    def mark(self, at, what=None):
        """The innermost mark that event number @at lies in, or None."""
        inside = [mark for mark in self.marks if mark[0] <= at < mark[1] and what in (None, mark[2])]
        return max(inside, key=lambda mark: (mark[0], -mark[1]), default=None)


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("way", ["plain", "closure", "in_backward", "checkpoint", "checkpoint_reentrant", "gan", "accumulate"])
def test_phases_when_trained_in_many_ways_then_are_what_the_script_says(version, way, tmp_path):
    run = Tagged(version, tmp_path, "phases.py", way)
    first, last = min(mark[0] for mark in run.marks), max(mark[1] for mark in run.marks)
    wrong = []
    for at, row in run.allocations:
        mark = run.mark(at)
        if at < first:
            wanted = "static"
        elif mark is None or at >= last:
            continue
        else:
            wanted = mark[2]
        # The script marks the modules that a checkpoint runs again; the generator's state is saved before the first of them.
        # Of 1.13's checkpoint without reentrance only the module's run is known to be one.
        told = way != "checkpoint" or version != harness.OLDER
        again = told and way.startswith("checkpoint") and wanted == "backward" and row["size_bytes"] == RNG_STATE
        recompute = int(again or bool(mark) and mark[3] == "recompute")
        if (row["phase"], row["recompute"]) != (wanted, recompute):
            wrong.append((at, row["phase"], row["recompute"], "not", wanted, recompute, row["layer"], row["size_bytes"]))
    assert wrong == []
    assert [row["kind"] for row in run.db.steps() if row["kind"] not in ("eval", "partial")] == ["setup"] + ["train"] * (
        4 if way == "plain" else 3
    )


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("net", ["odd", "transformer", "E2"])
def test_layers_when_a_net_is_trained_then_are_those_of_its_module_calls(version, net, tmp_path):
    run = Tagged(version, tmp_path, "layers.py", net, 3)
    wrong, compared = [], {"forward": 0, "backward": 0}
    for at, row in run.allocations:
        mark = run.mark(at)
        if mark is None or row["phase"] not in compared:
            continue
        compared[row["phase"]] += 1
        # A gradient belongs to its parameter's module, which may lie below the one that ran (attention's out_proj).
        inside = row["category"] == "gradient" and row["parameter"] and row["layer"].startswith(mark[3] + ".")
        if row["layer"] != mark[3] and not inside:
            wrong.append((at, row["phase"], row["layer"], "not", mark[3], row["size_bytes"]))
    assert wrong == []
    assert all(compared.values())


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("how", ["-I -S", "-m", "-c", "plain"])
def test_adapter_when_python_is_started_in_any_way_then_layers_and_steps_are_known(version, how, tmp_path):
    source = (harness.SCRIPTS / "isolated.py").read_text()
    (tmp_path / "isolated.py").write_text(source)
    python = harness.python_of(version)
    site = harness.run([python, "-c", "import torch; print(torch.__path__[0] + '/..')"], tmp_path, preload=()).out.strip()
    command = {
        "-I -S": [python, "-I", "-S", "-c", f"import sys; sys.path.append({site!r})\n" + source],
        "-m": [python, "-m", "isolated"],
        "-c": [python, "-c", source],
        "plain": [python, "isolated.py"],
    }[how]
    done = harness.run(command, tmp_path, PYTHONPATH=tmp_path)
    assert done.out == "done\n"
    db = done.db()
    db.assert_sound()
    assert len(db.steps("train")) == 3
    rows = db.rows("SELECT DISTINCT root, layer FROM v_allocation WHERE phase IN ('forward', 'backward') AND layer IS NOT NULL")
    assert {("Net", "body.0"), ("Net", "body.2")} <= {tuple(row) for row in rows}
    parameters = {row[0] for row in db.rows("SELECT DISTINCT parameter FROM v_allocation WHERE category = 'parameter'")}
    assert parameters == {"body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"}


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
def test_digits_when_trained_then_steps_and_evaluations_are_counted(version, tmp_path):
    example = harness.ROOT / "examples/digits.py"
    bare = harness.run([harness.python_of(version), example, 2], tmp_path, preload=())
    done = harness.run([harness.python_of(version), example, 2], tmp_path)
    assert done.out == bare.out
    db = done.db()
    db.assert_sound()
    assert len(db.steps("train")) == 2 * 23
    assert len(db.steps("eval")) >= 1
    assert db.run()["ended"] == "exit 0"
