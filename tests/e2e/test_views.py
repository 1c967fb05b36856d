"""What nnmem-report prints of a real run, in every format, against the script's own account and plain SQL."""

import csv
import io
import json

import pytest

import harness

VIEWS = ("summary", "timeline", "peak", "layers", "lifetimes", "growth", "stacks", "info")
MIB = 1 << 20


class Shown:
    """One run of lives.py; its report in any form."""

    def __init__(self, folder):
        self.run = harness.script(harness.VERSIONS[0], "lives.py", "out.json", folder=folder, NNMEM_STACKS="python")
        self.db = self.run.db()
        self.own = json.loads((folder / "out.json").read_text())

    def text(self, *words):
        return harness.report(*words, "run.db", folder=self.run.folder).out

    def rows(self, view, *words):
        return [json.loads(line) for line in self.text(view, "--format=json", *words).splitlines()]

    def table(self, view, *words):
        out = harness.run([harness.REPORT, view, "run.db", "--format=csv", *words], self.run.folder, preload=()).out
        return list(csv.DictReader(io.StringIO(out, newline="")))


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    return Shown(tmp_path_factory.mktemp("views"))


@pytest.mark.parametrize("view", VIEWS)
def test_csv_when_compared_with_json_then_the_same_rows(shown, view):
    rows, table = shown.rows(view), shown.table(view)
    assert len(rows) == len(table) > 0
    for row, line in zip(rows, table):
        kind = row.pop("row")
        assert line.get("row", kind) == kind
        for key, value in row.items():
            expected = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert line[key].lstrip("'") == expected, (view, key)


@pytest.mark.parametrize("view", VIEWS)
def test_text_when_the_line_is_narrow_then_nothing_is_wider(shown, view):
    for width in (60, 80, 100):
        for line in shown.text(view, f"--width={width}").splitlines():
            # What is one word, a path or a name, is not broken.
            assert len(line) <= width or max(len(word) for word in line.split()) + 23 > width, (width, line)
            assert "\033" not in line


@pytest.mark.parametrize("view", VIEWS)
def test_markdown_when_shown_then_every_table_is_whole(shown, view):
    lines = shown.text(view, "--format=markdown").splitlines()
    for before, line in zip(lines, lines[1:]):
        assert line == "" or line.startswith(("    ", "| ", "|---")), line
        if before.startswith("|") and line.startswith("|"):
            assert before.replace("\\|", "").count("|") == line.replace("\\|", "").count("|")


def test_layers_when_summed_then_equal_the_totals_to_the_byte(shown):
    rows = [row for row in shown.rows("layers") if row["row"] == "layer"]
    (everything,) = [row for row in rows if row["layer"] is None]
    layers = [row for row in rows if row["layer"] is not None]
    peak = shown.db.run()["peak_bytes"]
    assert sum(row["live_at_peak_bytes"] for row in rows) == everything["subtree_live_at_peak_bytes"] == peak
    assert sum(row["params_bytes"] for row in rows) == shown.db.run()["params_bytes"] == shown.own["layers"][""]["subtree"]
    for part in ("params", "gradient", "optimizer_state", "live_at_peak"):
        assert sum(row[f"{part}_bytes"] for row in rows) == everything[f"subtree_{part}_bytes"], part
    # Each subtree is the sum of what lies in it, for what does not come and go; and never more for what does.
    for row in layers:
        inside = [r for r in layers if not row["layer"] or (r["layer"] + ".").startswith(row["layer"] + ".")]
        if row["root"] != "Net":
            continue
        inside = [r for r in inside if r["root"] == "Net"]
        for part in ("params", "gradient", "optimizer_state", "live_at_peak"):
            assert row[f"subtree_{part}_bytes"] == sum(r[f"{part}_bytes"] for r in inside), (row["layer"], part)
        for part in ("saved", "temporary"):
            assert row[f"subtree_{part}_bytes"] <= sum(r[f"{part}_bytes"] for r in inside), (row["layer"], part)
    # The totals are those of the summary, whose table is made another way.
    window = {r["category"]: r["max_bytes"] for r in shown.rows("summary") if r["row"] == "category" and r["window"] == "training"}
    (step,) = {r["step"] for r in shown.rows("summary") if r["row"] == "window" and r["window"] == "training"}
    everything = [row for row in shown.rows("layers", f"--step={step}") if row["row"] == "layer"][-1]
    assert everything["layer"] is None and everything["step"] == step
    assert everything["subtree_live_at_peak_bytes"] == shown.db.one("SELECT peak_bytes FROM v_step WHERE step = ?", step)
    assert window["activation"] == everything["subtree_saved_bytes"]
    assert window["gradient"] == everything["subtree_gradient_bytes"]
    assert window["optimizer_state"] == everything["subtree_optimizer_state_bytes"] == shown.own["state"]


def test_layers_when_the_script_measures_its_parameters_then_equal(shown):
    rows = {row["layer"]: row for row in shown.rows("layers") if row["row"] == "layer" and row["root"] == "Net"}
    for name, measured in shown.own["layers"].items():
        assert rows[name]["params_bytes"] == measured["own"], name
        assert rows[name]["subtree_params_bytes"] == measured["subtree"], name


def test_layers_when_called_three_times_then_each_call_is_told(shown):
    rows = shown.rows("layers", "--layer=again")
    (layer,) = [row for row in rows if row["row"] == "layer"]
    calls = [row for row in rows if row["row"] == "call"]
    assert layer["calls"] == 3 and [row["call"] for row in calls] == [1, 2, 3]
    # The output of a linear layer: 32 x 256 float32.  tanh saves its own.
    assert {row["alloc_bytes"] for row in calls} == {32 * 256 * 4}
    assert "1-3, each" in shown.text("layers", "--layer=again")


@pytest.mark.parametrize(
    "words,where",
    [
        (["--phase=backward"], "phase = 'backward'"),
        (["--phase=static,optimizer", "--category=parameter,optimizer_state"],
         "phase IN ('static', 'optimizer') AND category IN ('parameter', 'optimizer_state')"),
        (["--layer=body.1"], "layer = 'body.1'"),
        (["--layer=body.*"], "layer LIKE 'body%'"),
        (["--layer=Net"], "root = 'Net' AND layer = ''"),
        (["--layer=Net.body.1"], "root = 'Net' AND layer = 'body.1'"),
        (["--layer=-"], "layer IS NULL"),
        (["--step=1"], "step = 1"),
        (["--min-size=64KiB"], "size_bytes >= 65536"),
        (["--min-size=0.1MB", "--device=cpu"], "size_bytes >= 100000"),
    ],
)  # fmt: skip
def test_peak_when_filtered_then_the_blocks_that_sql_chooses(shown, words, where):
    blocks = [row for row in shown.rows("peak", *words) if row["row"] == "block"]
    expected = {row["id"]: row["size_bytes"] for row in shown.db.rows(f"SELECT id, size_bytes FROM v_peak WHERE {where}")}
    assert {row["id"]: row["size_bytes"] for row in blocks} == expected != {}
    assert [row["size_bytes"] for row in blocks] == sorted(expected.values(), reverse=True)


def test_peak_when_everything_is_listed_then_every_block_has_its_owner_and_line(shown):
    rows = shown.rows("peak")
    (head,) = [row for row in rows if row["row"] == "peak"]
    blocks = [row for row in rows if row["row"] == "block"]
    assert sum(row["size_bytes"] for row in blocks) == head["live_bytes"] == head["peak_bytes"]
    assert head["runner_up_phase"] != head["phase"] and 0 < head["runner_up_bytes"] <= head["peak_bytes"]
    highest = shown.db.one("SELECT max(peak_bytes) FROM v_phase WHERE phase != ? AND device = 'cpu'", head["phase"])
    assert head["runner_up_bytes"] == highest
    states = [row for row in blocks if row["category"] == "optimizer_state"]
    assert sorted({row["state_key"] for row in states}) == ["exp_avg", "exp_avg_sq", "step"]
    assert all(row["parameter"] and row["layer"] for row in states)
    assert sum(row["size_bytes"] for row in states) == shown.own["state"]
    assert all("lives.py:" in row["line"] for row in blocks if row["category"] == "parameter")


def test_peak_when_blocks_are_equal_then_one_line_with_their_count(shown):
    text = shown.text("peak", "--limit=all", "--width=160", "--category=optimizer_state")
    (line,) = [line for line in text.splitlines() if "body.[1-3]" in line and "weight exp_avg " in line]
    assert line.split()[:2] == ["524", "288"] and " 2  256.0 KiB " in line and "lives.py:" in line, line
    assert "not chosen" in text and "total" in text


def test_lifetimes_when_gradients_stay_and_a_variable_holds_then_they_are_named(shown):
    gradients = shown.own["layers"][""]["subtree"]
    text = " ".join(shown.text("lifetimes", "--width=200", "--step=3", "--units=bytes").split())
    assert f"{gradients:,}".replace(",", " ") + " bytes of gradients of the step before stay alive" in text
    assert "made in the forward are still held after the backward" in text and "layer Net" in text or "layer " in text
    lives = shown.rows("lifetimes", "--step=3")
    for row in lives:
        assert 0 <= row["idle_ns"] <= row["life_ns"], row
    old = [r for r in lives if r["category"] == "gradient" and r["step"] == 2]
    assert sum(r["size_bytes"] for r in old) == gradients and all(r["idle_ns"] > 0 and r["free_step"] == 3 for r in old)
    expected = shown.db.one(
        """SELECT count(*) FROM v_allocation a JOIN step s ON s.step = 3
           WHERE a.alloc_seq <= s.end_seq AND (a.free_seq IS NULL OR a.free_seq > s.start_seq)"""
    )
    assert len(lives) == expected
    assert all(r["idle_ns"] == 0 for r in lives if r["category"] in ("parameter", "unknown"))


def test_summary_when_shapes_are_known_then_values_are_those_of_the_tensors(shown):
    rows = {r["category"]: r for r in shown.rows("summary") if r["row"] == "category" and r["window"] == "training"}
    parameters = shown.own["layers"][""]["subtree"] // 4
    assert rows["parameter"]["values"] == parameters
    assert rows["optimizer_state"]["values"] == shown.own["state_values"]
    assert rows["gradient"]["values"] in (parameters, None)
    assert rows["activation"]["values"] is None
    assert f"{parameters:,}".replace(",", " ") in shown.text("summary")


OF = {
    "peak": ("v_peak", "level = 'block'"),
    "allocated": ("v_allocation", "level = 'block'"),
    "live": ("v_allocation", "level = 'block' AND free_seq IS NULL"),
}


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("words,where", [([], "1"), (["--phase=backward", "--min-size=1KiB"], "phase = 'backward' AND size_bytes >= 1024")])
def test_stacks_when_folded_then_every_byte_below_its_line_and_operation(shown, of, words, where):
    folded = [line.rsplit(" ", 1) for line in shown.text("stacks", "--folded", f"--of={of}", *words).splitlines()]
    by_operation, by_line = {}, {}
    for stack, size in folded:
        *_, innermost = stack.split(";")
        by_operation[innermost] = by_operation.get(innermost, 0) + int(size)
        for frame in {f for f in stack.split(";") if "lives.py:" in f}:
            by_line[frame] = by_line.get(frame, 0) + int(size)
    view, alive = OF[of]
    operations = shown.db.rows(f"SELECT operation, sum(size_bytes) AS bytes FROM {view} WHERE {alive} AND {where} GROUP BY 1")
    for row in operations:
        if row["operation"]:
            assert by_operation[row["operation"]] == row["bytes"], row["operation"]
    total = sum(row["bytes"] or 0 for row in operations)
    assert sum(int(size) for _, size in folded) == total
    assert total > 0 or of == "live"
    for row in shown.db.rows(f"SELECT line, sum(size_bytes) AS bytes FROM {view} WHERE {alive} AND {where} GROUP BY 1"):
        if row["line"] and "lives.py:" in row["line"]:  # "file:12 (f)", which may call what allocates more
            place, function = row["line"].rsplit(" (", 1)
            assert by_line[f"{function[:-1]} ({place})"] >= row["bytes"], row["line"]
    rows = [row for row in shown.rows("stacks", f"--of={of}", *words)]
    assert [(row["stack"] or "[stack not known]", row["bytes"]) for row in rows] == [(stack, int(size)) for stack, size in folded]


def test_stacks_when_for_speedscope_then_its_fields_and_the_folded_bytes(shown):
    profile = json.loads(shown.text("stacks", "--speedscope"))
    assert profile["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    (sampled,) = profile["profiles"]
    frames = profile["shared"]["frames"]
    assert all(set(frame) == {"name"} and isinstance(frame["name"], str) for frame in frames)
    assert sampled["type"] == "sampled" and sampled["unit"] == "bytes" and sampled["startValue"] == 0 and sampled["name"]
    assert len(sampled["samples"]) == len(sampled["weights"]) > 10
    assert sum(sampled["weights"]) == sampled["endValue"] == shown.db.run()["peak_bytes"]
    spelt = [";".join(frames[i]["name"] for i in sample) or "[stack not known]" for sample in sampled["samples"]]
    folded = shown.text("stacks", "--folded").splitlines()
    assert [f"{stack} {weight}" for stack, weight in zip(spelt, sampled["weights"])] == folded


def test_stacks_when_a_tree_then_lines_of_the_user_from_both_ends(shown):
    text = shown.text("stacks", "--units=bytes", "--width=120", "--limit=all")
    peak = f"{shown.db.run()['peak_bytes']:,}".replace(",", " ")
    assert peak + " bytes" in text and "lives.py:" in text and "site-packages" not in text and "module.py" not in text
    lines = [line for line in text.splitlines() if "<module> (lives.py:" in line]
    up = shown.text("stacks", "--bottom-up", "--width=120", "--limit=all").splitlines()
    assert lines and any("<module> (lives.py:" in line for line in up)
    (first,) = [line for line in up if "share" in line]
    assert "aten::" in up[up.index(first) + 1] or "Backward0" in up[up.index(first) + 1]


@pytest.mark.parametrize(
    "words,said",
    [
        (["peak", "--phase=forwards"], "phases are static, forward"),
        (["peak", "--layer=nope"], "has no layer 'nope'"),
        (["peak", "--category=grad"], "categories are unknown, parameter"),
        (["peak", "--device=cuda:0"], "it used cpu"),
        (["timeline", "--step=99"], "its steps are 0 to 4"),
        (["lifetimes", "--min-size=many"], "a size is a number of bytes"),
        (["stacks", "--of=peaks"], "stacks are of peak, allocated or live"),
        (["peak", "--folded"], "are of the view stacks"),
        (["stacks", "--folded", "--format=json"], "formats of their own"),
        (["summary", "--layer=first"], "has no meaning for the view summary; it takes --device"),
    ],
)
def test_filter_when_wrong_then_one_line_that_says_what_is_allowed(shown, words, said):
    done = harness.report(*words, "run.db", folder=shown.run.folder, check=False)
    (line,) = done.err.splitlines()
    assert done.status == 2 and done.out == "" and said in line


def test_text_when_the_terminal_has_no_utf8_then_ascii_only(shown):
    for view in VIEWS:
        out = harness.report(view, "run.db", "--width=60", folder=shown.run.folder, LC_ALL="C").out
        assert out.isascii(), view
