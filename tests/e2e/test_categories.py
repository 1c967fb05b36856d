"""What a block is for, told by the storage that it holds: the script says what is what (scripts/categories.py, trees.py).

Each claim of the script names a storage at a moment, in events of count_preload.c; the block that is alive there must have the
category, the parameter and the state key that the script says, and no tensor that PyTorch allocated is external.
"""

import bisect
import collections
import json

import harness

CASES = [
    "flattened", "buckets", "tied", "normed", "views", "moved", "new_head", "late_parameter", "loaded", "adagrad", "others",
    "lbfgs", "sparse", "lazy", "complex_numbers", "low_precision", "meta", "parametrized", "averaged", "frozen", "external", "long_run",
    "copied_gradients",
]  # fmt: skip


# Random trees of modules, all in one process, so that each takes over the names and addresses of those before.
NR_TREES = 60


def wrong_claims(claims, rows, external):
    """The claims of one case that the run file does not bear out, as texts; @rows by address, each ascending by birth."""
    wrong = collections.Counter()
    for when, category, parameter, key, address, size in claims:
        lives = [row for row in rows[address] if row["birth"] < when <= row["death"]]
        if category == "external":
            if lives or external.get((address, parameter)) != size:
                wrong[f"{parameter}, {size} bytes, is not external"] += 1
            continue
        if category == "mapped":
            # A file of weights is one block, which goes by the first of their names.
            files = [row for found in rows.values() for row in found if 0 <= address - row["address"] < row["size_bytes"]]
            if not any(row["category"] == "parameter" and row["birth"] < when <= row["death"] for row in files):
                wrong[f"{parameter}, {size} bytes, lies in no block of parameters"] += 1
            continue
        if not lives:
            wrong[f"{category} {parameter} {key}: no block of {size} bytes at {address:#x}"] += 1
            continue
        (row,) = lives
        if row["category"] != category:
            wrong[f"{category} {parameter} {key}, {size} bytes: {row['category']} by {row['category_rule']}"] += 1
        elif parameter and row["parameter"] != parameter or key and row["state_key"] != key:
            wrong[f"{category} {parameter} {key}: {row['parameter']} {row['state_key']}"] += 1
    return wrong


class Recorded:
    """A run file whose rows say when they were born and died in events of the log; by address, each ascending by birth."""

    def __init__(self, done):
        self.db = done.db()
        self.db.assert_sound()
        sequence, events = self.db.sequence(), done.log().events
        assert [(size, address) for _, size, address, _ in sequence] == [(size, address) for address, size, _, _ in events]
        # A record's number among all reports is its number in the log.
        numbers = {seq: at for at, (seq, _, _, _) in enumerate(sequence)}
        self.rows = []
        self.by_address = collections.defaultdict(list)
        for row in self.db.rows("SELECT v.*, a.address FROM v_allocation v JOIN allocation a ON a.id = v.id ORDER BY v.alloc_seq"):
            row = {**dict(row), "birth": numbers[row["alloc_seq"]], "death": numbers.get(row["free_seq"], len(sequence))}
            self.rows.append(row)
            self.by_address[row["address"]].append(row)
        self.external = {(row["storage"], row["parameter"]): row["size_bytes"] for row in self.db.rows("SELECT * FROM v_external")}

    def wrong(self, claims):
        return wrong_claims(claims, self.by_address, self.external)


def show(claims, wrong):
    for case, found in wrong.items():
        print(f"{case}: {len(claims[case])} claims, {sum(found.values())} wrong")
        for text, count in found.items():
            print(f"    {count} times {text}")


def run(tmp_path, *words):
    done = harness.script("2.13.0", *words, folder=tmp_path, preload=(harness.COUNT, harness.HOOK), timeout=300)
    return Recorded(done), json.loads((tmp_path / "out.json").read_text())


def test_storages_when_tensors_are_of_all_kinds_then_categories_are_as_the_script_says(tmp_path):
    recorded, claims = run(tmp_path, "categories.py", "out.json", *CASES)
    assert list(claims) == CASES
    wrong = {case: recorded.wrong(said) for case, said in claims.items()}
    show(claims, wrong)
    assert not any(wrong.values())


def test_trees_when_random_then_layers_names_and_frees_balance(tmp_path):
    recorded, seeds = run(tmp_path, "trees.py", "out.json", 0, NR_TREES)
    assert len(seeds) == NR_TREES
    births = [row["birth"] for row in recorded.rows]
    wrong, nr_in_layers = {}, 0
    for seed, said in seeds.items():
        mine = recorded.rows[bisect.bisect_left(births, said["start"]) : bisect.bisect_left(births, said["end"])]
        wrong[seed] = recorded.wrong(said["claims"])
        # Everything that the model made is gone with it, and counted once.
        kept = [row for row in mine if row["death"] >= said["end"]]
        assert not kept, (seed, [(row["category"], row["layer"], row["size_bytes"]) for row in kept])
        stack, open_calls = [], [(0, None)]
        for when, path, step in said["calls"]:
            if step > 0:
                stack.append(path)
            else:
                assert stack.pop() == path
            open_calls.append((when, stack[-1] if stack else None))
        moments = [when for when, _ in open_calls]
        for row in mine:
            _, layer = open_calls[bisect.bisect_right(moments, row["birth"]) - 1]
            if row["birth"] < moments[-1] and layer is not None:
                nr_in_layers += 1
                assert row["phase"] in ("forward", "inference"), (seed, row)
                # What has a parameter's or buffer's name is that one's, wherever it was made.
                if row["category"] not in ("parameter", "buffer") and row["layer"] != layer:
                    wrong[seed][f"made in {layer!r}, not {row['layer']!r}: {row['category']} of {row['size_bytes']} bytes"] += 1
    show({seed: said["claims"] for seed, said in seeds.items()}, wrong)
    assert not any(wrong.values())
    assert nr_in_layers > 20 * NR_TREES
    check_sums(recorded.db)


def check_sums(db):
    """Every step adds up: from phase to phase, from its start to its end, and to what is alive at the peak by layer."""
    phases = {row["step"]: tuple(row)[1:] for row in db.rows("SELECT step, sum(allocs), sum(alloc_bytes) FROM v_phase GROUP BY step")}
    steps = db.steps()
    assert {row["step"]: (row["allocs"], row["alloc_bytes"]) for row in steps} == phases
    assert [row["start_bytes"] for row in steps[1:]] == [row["end_bytes"] for row in steps[:-1]]
    born = db.one("SELECT count(*), sum(size_bytes) FROM v_allocation")
    assert (sum(row["allocs"] for row in steps), sum(row["alloc_bytes"] for row in steps)) == tuple(born)
    assert sum(row["frees"] for row in steps) == db.one("SELECT count(*) FROM v_allocation WHERE free_seq IS NOT NULL")
    assert db.one("SELECT sum(live_at_peak_bytes) FROM v_layer") == db.run()["peak_bytes"]
