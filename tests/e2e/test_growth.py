"""What grows from step to step, against what the script itself says that each of its steps keeps."""

import json

import harness


def grow(folder, styles, steps, stacks="python"):
    run = harness.script(harness.VERSIONS[0], "growth.py", styles, steps, "out.json", folder=folder, NNMEM_STACKS=stacks)
    own = json.loads((folder / "out.json").read_text())
    lines = harness.report("growth", "run.db", "--format=json", folder=folder).out.splitlines()
    head, *groups = [json.loads(line) for line in lines]
    text = " ".join(harness.report("growth", "run.db", "--width=200", "--units=bytes", folder=folder).out.split())
    assert run.status == 0 and head["row"] == "growth" and all(row["row"] == "group" for row in groups)
    return own, head, groups, text


def spell(size):
    return f"{size:,}".replace(",", " ")


def test_growth_when_every_loss_keeps_its_graph_then_all_of_it_is_found_and_named(tmp_path):
    own, head, groups, text = grow(tmp_path, "graph", 8)
    expected = own["graph"] + own["losses"]
    assert expected > 10000 and own["losses"] == 4
    assert sum(row["bytes_per_step"] for row in groups) == head["kept_bytes_per_step"] == expected
    assert {row["cause"] for row in groups} == {"graph"} and {row["since_step"] for row in groups} == {1}
    assert {row["fit_percent"] for row in groups} == {100} and {row["kind"] for row in groups} == {"kept"}
    most = groups[0]
    assert most["layer"] == "" and most["root"] == "Net" and most["operation"] == "aten::tanh" and most["phase"] == "forward"
    assert "growth.py:" in most["line"] and "(Net.forward)" in most["line"]
    assert f"each step since step 1 keeps {spell(expected)} bytes" in text
    assert "holds the graph" in text and "losses.append(loss)" in text and "layer Net" in text


def test_growth_when_lists_keep_something_then_bytes_place_and_cause_of_each(tmp_path):
    own, head, groups, text = grow(tmp_path, "losses,outputs,gradients,inputs,cat,late,predictions", 24)
    rows = {(row["cause"], row["phase"]): row for row in groups}
    assert len(rows) == len(groups) == len(own) == 7
    for style, cause, operation, phase, layer, said in (
        ("losses", "scalars", "aten::mean", "forward", None, "append loss.item()"),
        ("late", "scalars", None, "other", None, "append loss.item()"),
        ("outputs", "outputs", "aten::linear", "forward", "second", "a list of outputs"),
        ("gradients", "gradients", None, "backward", "first", "a list of gradients"),
        ("inputs", "outside", "aten::randn", "other", None, "a list of batches"),
        ("cat", "replaced", "aten::cat", "forward", "", "torch.cat"),
        ("predictions", "inference", "aten::linear", "inference", "second", "a list of predictions"),
    ):
        row = rows[cause, phase]
        # What begins late is named only if the recorder asked for operations in time.
        assert operation is None or row["operation"] == operation, style
        assert row["phase"] == phase and row["layer"] == layer and "growth.py:" in row["line"] and said in text
        if style in ("predictions", "inputs"):
            # Every other step predicts.  An input is born before its step, or in the evaluation between two steps.
            assert row["bytes"] == row["blocks"] * own[style]
            assert row["bytes_per_step"] == round(row["bytes"] / row["steps"])
        elif style == "cat":  # in evaluation, too
            assert abs(row["bytes_per_step"] - own[style]) <= 2
        else:
            assert row["bytes_per_step"] == own[style] > 0 and row["fit_percent"] == 100, style
        if style not in ("cat", "late", "predictions", "inputs"):
            assert row["since_step"] == 1, style
    assert next(row for row in groups if row["cause"] == "inference")["since_step"] == 2
    # Of 24 steps of training the last twelve, each second followed by one of evaluation.
    assert rows["scalars", "other"]["since_step"] == 19
    assert head["replaced_bytes_per_step"] == rows["replaced", "forward"]["bytes_per_step"]


def test_growth_when_nothing_is_kept_then_says_what_was_checked(tmp_path):
    for number, styles in enumerate(("none", "lengths,evaluation,accumulation,queue")):
        folder = tmp_path / str(number)
        folder.mkdir()
        own, head, groups, text = grow(folder, styles, 12)
        assert own == {} and groups == [] and head["enough_steps"] and head["groups"] > 5
        assert head["kept_bytes_per_step"] == head["replaced_bytes_per_step"] == 0
        assert "Nothing grows. Checked:" in text


def test_growth_when_only_the_inputs_become_longer_then_not_a_leak(tmp_path):
    _, head, groups, text = grow(tmp_path, "sorted", 10)
    assert {row["kind"] for row in groups} == {"with_steps"} and head["kept_bytes_per_step"] == head["replaced_bytes_per_step"] == 0
    assert "inputs that become longer" in text and "something keeps" not in text


def test_growth_when_two_steps_then_too_few_to_tell(tmp_path):
    _, head, groups, text = grow(tmp_path, "losses", 2, stacks="off")
    assert groups == [] and not head["enough_steps"] and head["training_steps"] == 2
    assert "Too few training steps to tell" in text
    # Without stacks, the view of them says in one line how to get them.
    (line,) = harness.report("stacks", "run.db", folder=tmp_path).out.splitlines()
    assert "NNMEM_STACKS=python" in line
