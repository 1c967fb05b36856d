"""Steps and phases in every kind of training loop are those of the diary that the loop keeps itself.

Where an event lies is told by the log of count_preload.c, so neither side of a comparison knows of the other.
"""

import bisect
import collections
import concurrent.futures
import json

import pytest

import harness

BOTH = (harness.COUNT, harness.HOOK)

LOOPS = (
    *("lbfgs", "gan", "amp_bfloat16", "amp_float16", "optimizers", "in_backward", "eval_no_grad", "eval_inference_mode"),
    *("accumulation", "lr_finder", "replaced", "averaged", "by_hand", "functional_update", "two_threads"),
    *("lightning_automatic", "lightning_manual", "trainer"),
)


class Diary:
    """What loops.py wrote in @folder, beside the log of its events."""

    def __init__(self, folder, log):
        diary = json.loads((folder / "diary.json").read_text())
        self.kinds, self.worked = diary["kinds"], diary["worked"]
        self.log = log.events
        self.threads = collections.defaultdict(list)
        self.starts = [0]
        for event, thread, step, phase in diary["entries"]:
            self.threads[thread].append((event, phase))
            if step == len(self.starts):
                self.starts.append(event)

    def phase(self, event):
        """The phase in which the diary has the event of the log, or None where it has none for that thread."""
        entries = self.threads.get(self.log[event][2])
        if entries is None:
            return None
        at = bisect.bisect_right(entries, event, key=lambda entry: entry[0])
        return entries[at - 1][1] if at else "static"

    def step(self, event):
        return bisect.bisect_right(self.starts, event) - 1

    def temporaries_of_updates(self):
        """What was born where gradients are worked on, and freed before the next forward on its thread."""
        freed, found = {}, set()
        for event in range(len(self.log) - 1, -1, -1):
            address, size, thread, _ = self.log[event]
            if size < 0:
                freed[address] = event
            elif any(start <= event < end for start, end in self.worked):
                forwards = [at for at, phase in self.threads[thread] if phase == "forward" and at > event]
                if freed.get(address, len(self.log)) < min(forwards, default=len(self.log)):
                    found.add(event)
        return found

    def by_phase(self):
        """(step, phase) to allocations and their bytes."""
        sums = collections.Counter()
        for event, (_, size, *_) in enumerate(self.log):
            if size > 0:
                sums[self.step(event), self.phase(event), "allocs"] += 1
                sums[self.step(event), self.phase(event), "bytes"] += size
        return dict(sums)

    def by_step(self):
        """(kind, allocations, frees, bytes, start, peak, end) of each step."""
        rows, height = [], 0
        for kind, start, end in zip(self.kinds, self.starts, [*self.starts[1:], len(self.log)]):
            sizes = [size for _, size, *_ in self.log[start:end]]
            born = [size for size in sizes if size > 0]
            heights = harness.heights(sizes, height)
            rows.append((kind, len(born), len(sizes) - len(born), sum(born), height, max(heights), heights[-1]))
            height = heights[-1]
        return rows


def assert_temporaries_of_updates(db, diary):
    """Where the loop says where it works on gradients; others, Lightning's among them, do so unseen by their script."""
    number = events_of(db, diary)
    rows = db.rows("SELECT alloc_seq, category FROM v_allocation WHERE category_rule = 'before_step'")
    assert {number[row["alloc_seq"]] for row in rows} == diary.temporaries_of_updates() != set()
    assert {row["category"] for row in rows} == {"optimizer_temporary"}


def recorded_by_phase(db):
    sums = {}
    for step, phase, allocs, size in db.rows("SELECT step, phase, allocs, alloc_bytes FROM v_phase WHERE device = 'cpu' AND allocs > 0"):
        sums[step, phase, "allocs"], sums[step, phase, "bytes"] = allocs, size
    return sums


def recorded_by_step(db):
    columns = ("kind", "allocs", "frees", "alloc_bytes", "start_bytes", "peak_bytes", "end_bytes")
    return [tuple(row[column] for column in columns) for row in db.steps()]


def events_of(db, diary):
    """Sequence number to event of the log, by each thread's own order: two threads may be logged in another than recorded."""
    recorded, logged = collections.defaultdict(list), collections.defaultdict(list)
    for seq, size, address, thread in db.sequence():
        recorded[thread].append((seq, size, address))
    for event, (address, size, thread, _) in enumerate(diary.log):
        logged[thread].append((event, size, address))
    numbers = {}
    for thread in recorded.keys() | logged.keys():
        assert [row[1:] for row in recorded[thread]] == [row[1:] for row in logged[thread]]
        numbers.update((seq, event) for (seq, *_), (event, *_) in zip(recorded[thread], logged[thread]))
    return numbers


def assert_allocations_lie_in(db, diary):
    """Of each allocation by itself; where all are equal the sums are too, but this says which is not."""
    number = events_of(db, diary)
    wrong, compared = [], collections.Counter()
    for row in db.rows("SELECT * FROM v_allocation ORDER BY alloc_seq"):
        event = number[row["alloc_seq"]]
        step, phase = diary.step(event), diary.phase(event)
        if phase is None:
            continue
        compared[phase] += 1
        if (row["step"], row["phase"]) != (step, phase):
            wrong.append((event, row["step"], row["phase"], "not", step, phase, row["size_bytes"], row["operation"], row["line"]))
    assert wrong == []
    assert all(compared[phase] >= 10 for phase in ("static", "forward", "backward"))


@pytest.mark.parametrize("loop", LOOPS)
def test_steps_and_phases_when_trained_in_a_loop_then_are_those_of_its_diary(loop, tmp_path):
    done = harness.script("2.13.0", "loops.py", loop, folder=tmp_path, preload=BOTH, HF_HUB_OFFLINE=1)
    db = done.db()
    db.assert_sound()
    diary = Diary(tmp_path, done.log())
    assert_allocations_lie_in(db, diary)
    assert recorded_by_step(db) == diary.by_step()
    assert recorded_by_phase(db) == diary.by_phase()
    if loop in ("amp_bfloat16", "amp_float16", "accumulation", "by_hand"):
        assert_temporaries_of_updates(db, diary)


def test_steps_and_phases_when_two_ranks_train_then_each_file_has_those_of_its_rank(tmp_path):
    def rank(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        return harness.script("2.13.0", "loops.py", "ddp", tmp_path / "meeting", folder=folder, preload=BOTH, RANK=number)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(rank, range(2)))
    for number, done in enumerate(runs):
        db = done.db(f"run.rank{number}.db")
        db.assert_sound()
        assert db.run()["rank"] == number
        diary = Diary(done.folder, done.log())
        assert_allocations_lie_in(db, diary)
        assert [row["kind"] for row in db.steps()] == diary.kinds == ["setup", "train", "train", "train"]
