"""What a block is for, told by the storage that it holds: the cases of scripts/categories.py, where the script says what is what.

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
]  # fmt: skip


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


def test_storages_when_tensors_are_of_all_kinds_then_categories_are_as_the_script_says(tmp_path):
    done = harness.script(
        "2.13.0", "categories.py", "out.json", *CASES, folder=tmp_path, preload=(harness.COUNT, harness.HOOK), timeout=300
    )
    db, log = done.db(), done.log()
    db.assert_sound()
    # A record's number among all reports is its number in the log.
    moments = [seq for seq, _, _, _ in db.sequence()]
    assert [(size, address) for _, size, address, _ in db.sequence()] == [(size, address) for address, size, _, _ in log.events]
    rows = collections.defaultdict(list)
    for row in db.rows("SELECT v.*, a.address FROM v_allocation v JOIN allocation a ON a.id = v.id ORDER BY v.alloc_seq"):
        birth = bisect.bisect_left(moments, row["alloc_seq"])
        death = bisect.bisect_left(moments, row["free_seq"]) if row["free_seq"] else len(moments)
        rows[row["address"]].append({**dict(row), "birth": birth, "death": death})
    external = {(row["storage"], row["parameter"]): row["size_bytes"] for row in db.rows("SELECT * FROM v_external")}

    claims = json.loads((tmp_path / "out.json").read_text())
    assert list(claims) == CASES
    wrong = {case: wrong_claims(said, rows, external) for case, said in claims.items()}
    for case, found in wrong.items():
        print(f"{case}: {len(claims[case])} claims, {sum(found.values())} wrong")
        for text, count in found.items():
            print(f"    {count} times {text}")
    assert not any(wrong.values())
