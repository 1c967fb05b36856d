"""Where the script made a tensor: lines and whole stacks, against the script's own text and what Python said."""

import json

import pytest

import harness

SCRIPT = harness.SCRIPTS / "stacks.py"
MARKS = {
    text.split("# at ")[1]: f"{SCRIPT}:{number} "
    for number, text in enumerate(SCRIPT.read_text().splitlines(), 1)
    if "# at " in text and "`" not in text
}


class Recorded:
    def __init__(self, version, folder, **environment):
        self.done = harness.script(version, "stacks.py", folder=folder, **{"NNMEM_STACKS": "python"} | environment)
        self.db = self.done.db()
        self.said = json.loads((folder / "stacks.json").read_text())

    def lines(self, elements, **where):
        """The different lines of all blocks of so many float32."""
        query = "SELECT DISTINCT line FROM v_allocation WHERE size_bytes = ?" + "".join(f" AND {key} = ?" for key in where)
        return {row[0] for row in self.db.rows(query, 4 * elements, *where.values())}

    def stack(self, elements):
        """(file, line, function) of each frame of Python of the last block of so many, outermost first."""
        (stack,) = self.db.rows("SELECT stack FROM allocation WHERE size_bytes = ? ORDER BY id DESC LIMIT 1", 4 * elements)[0]
        frames = []
        while stack:
            row = self.db.one(
                "SELECT s.parent, f.kind, f.file, f.line, f.function FROM stack s JOIN frame f ON f.id = s.frame WHERE s.id = ?", stack
            )
            stack = row["parent"]
            if row["kind"] == 0:
                frames.insert(0, (row["file"], row["line"], row["function"]))
        return frames


@pytest.fixture(scope="module", params=harness.VERSIONS)
def recorded(request, tmp_path_factory):
    return Recorded(request.param, tmp_path_factory.mktemp("stacks"))


@pytest.mark.parametrize(
    "mark, elements, function",
    [
        ("plain", 2039, "plain"),
        ("generator", 2003, "generator"),
        ("lines", 2011, "generator"),
        ("class", 2017, "Things"),
        ("from C", 2027, "Things.__lt__"),
        ("lambda", 2053, "main.<locals>.<lambda>"),
        ("comprehension", 2063, "main.<locals>.<listcomp>"),
        ("recursion", 2069, "recursion"),
        ("inside torch", 2081 + 2, "main"),
        ("inside torch", 2081, "main"),
        ("inside the library", 2089, "main"),
        ("parameter", 211 * 223, "Net.__init__"),
    ],
)
def test_line_when_a_tensor_is_made_then_that_of_the_script(recorded, mark, elements, function):
    where = {"category": "parameter"} if mark == "parameter" else {}
    assert recorded.lines(elements, **where) == {MARKS[mark] + f"({function})"}


def test_run_when_stacks_are_captured_then_sound(recorded):
    recorded.db.assert_sound()


def test_line_when_evaluated_from_a_string_then_its_line_in_the_string(recorded):
    assert recorded.lines(2087) == {"<string>:1 (<module>)"}


def test_line_when_code_objects_die_and_addresses_return_then_each_its_own(recorded):
    assert recorded.said["returned"] > 100
    wrong = []
    for k in range(47):
        rows = recorded.db.rows("SELECT line, count(*) FROM v_allocation WHERE size_bytes = ? GROUP BY 1 ORDER BY 1", 4 * (3000 + k))
        got = {row[0]: row[1] for row in rows}
        wanted = {}
        for i in range(k, 2000, 47):
            line = f"<made {i % 3}>:{k + 1} (<module>)"
            wanted[line] = wanted.get(line, 0) + 1
        if got != wanted:
            wrong.append((k, got, wanted))
    assert wrong == []


def test_line_when_in_backward_then_that_of_the_forward(recorded):
    # The gradient of each operand of outer is a product of the whole size, summed.
    assert recorded.lines(101 * 103, phase="backward") == {MARKS["exp"] + "(training)", MARKS["outer"] + "(training)"}
    assert recorded.lines(101, phase="backward") == {MARKS["outer"] + "(training)"}
    assert recorded.lines(103, phase="backward") == {MARKS["outer"] + "(training)"}
    assert recorded.lines(107, phase="backward") == {MARKS["custom"] + "(training)"}
    assert recorded.lines(2029, phase="backward") == {MARKS["custom"] + "(training)"}
    assert recorded.lines(211 * 223, phase="backward") == {MARKS["linear"] + "(Net.forward)"}


def test_line_when_recomputed_in_backward_then_where_it_is_computed(recorded):
    lines = recorded.lines(227 * 223, recompute=1)
    assert lines == {MARKS["linear"] + "(Net.forward)", MARKS["relu"] + "(Net.forward)"}


def test_line_when_made_in_threads_then_that_of_each_thread(recorded):
    for n in range(4001, 4005):
        rows = recorded.db.rows("SELECT line, count(*) FROM v_allocation WHERE size_bytes = ? GROUP BY 1", 4 * n)
        assert [tuple(row) for row in rows] == [(MARKS["thread"] + "(in_threads.<locals>.work)", 100)]


def test_stack_when_stored_then_what_python_says_of_it(recorded):
    assert [(file, line) for file, line, _ in recorded.stack(2039)] == [tuple(frame) for frame in recorded.said["plain"]]
    assert [function for *_, function in recorded.stack(2039)] == ["<module>", "main", "plain"]
    frames = recorded.stack(2081 + 2)
    assert frames[-1][0].endswith("torch/nn/functional.py") and frames[-1][2] == "pad"


def test_stack_when_deeper_than_is_kept_then_cut_at_its_beginning(recorded):
    frames = recorded.stack(2069)
    assert frames[0] == ("", 0, "<more frames>")
    assert len(frames) == 1 + 128 and {function for *_, function in frames[1:]} == {"recursion"}
    stacks = recorded.db.rows("SELECT DISTINCT stack FROM allocation WHERE size_bytes = ?", 4 * 2069)
    assert len(stacks) == 1, "two depths of one recursion are two stacks"


def test_tables_when_code_is_made_2000_times_then_they_hold_what_differs(recorded):
    assert recorded.db.one("SELECT count(*) FROM frame WHERE file LIKE '<made%'") == 47 * 3
    assert recorded.db.one("SELECT count(*) FROM (SELECT DISTINCT file, line, function FROM frame)") == recorded.db.one(
        "SELECT count(*) FROM frame"
    )
    assert recorded.db.one("SELECT count(*) FROM stack s LEFT JOIN frame f ON f.id = s.frame WHERE f.id IS NULL") == 0
    assert recorded.db.one("SELECT count(*) FROM allocation a LEFT JOIN stack s ON s.id = a.stack WHERE s.id IS NULL") == 0


def test_refusal_when_out_of_memory_then_with_line_and_operation(recorded):
    rows = recorded.db.rows("SELECT line, operation, size_bytes, layer FROM v_oom")
    assert [tuple(row) for row in rows] == [(MARKS["refused"] + "(main)", "aten::zeros", 4 << 46, None)]
    out = harness.report("info", "run.db", folder=recorded.done.folder).out
    assert f"by aten::zeros\n    at {rows[0]['line']}\n" in out


def test_peak_when_shown_then_with_lines(recorded):
    out = harness.report("peak", "run.db", "--width=200", folder=recorded.done.folder).out
    assert f"stacks.py:{MARKS['plain'].split(':')[1].strip()} (plain)" in out


@pytest.mark.parametrize("version", harness.VERSIONS[:1])
@pytest.mark.parametrize("stacks", ["off", None, "native", "both"])
def test_stacks_when_set_then_as_asked(version, stacks, tmp_path):
    run = Recorded(version, tmp_path, NNMEM_STACKS=stacks)
    assert not run.db.rows("SELECT what FROM v_note")
    objects = {row[0].rsplit("/")[-1] for row in run.db.rows("SELECT DISTINCT file FROM frame WHERE kind = 2")}
    assert ("libc10.so" in objects) == (stacks in ("native", "both")), objects
    wanted = {MARKS["plain"] + "(plain)"} if stacks in (None, "both") else {None}
    assert run.lines(2039) == wanted
    assert run.done.out == "" and (run.db.one("SELECT count(*) FROM stack") > 0) == (stacks != "off")
