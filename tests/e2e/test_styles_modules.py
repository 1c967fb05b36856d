"""Layers and phases in every style of writing a model, against a second account in a bare run of the same script.

One run of styles.py goes through a group of styles; each test looks at the part of one style.
"""

import json
import re

import pytest

import harness

# Date, time and pid in PyTorch's log lines.
LOG_PREFIX = re.compile(r"[IWE]\d{4} [\d:.]+ \d+ ")

# Named by what they were made for, not by where they were made.
OWNED = ("parameter", "buffer", "gradient", "optimizer_state")

# What a thread did before decides whether code without modules begins a forward, so that comes in a process of its own.
GROUPS = {
    "modules": (
        *("nested", "repeated", "shared", "roots", "strays"),
        *("custom", "penalty_grad", "penalty_backward", "penalty_custom", "retain", "inside", "hooks", "saved", "raises"),
        *("checkpoint", "checkpoint_reentrant", "checkpoint_nested", "checkpoint_nested_reentrant", "checkpoint_mixed"),
        *("checkpoint_sequential", "checkpoint_selective", "scripted", "traced"),
    ),
    "functional": ("functional", "func_plain", "derivatives", "checkpoint_functional", "func"),
    "compiled": ("compiled_function", "compiled", "compiled_checkpoint", "compiled_parts"),
    "inductor": ("compiled_inductor",),
}


class Pair:
    """Three runs of styles.py: bare, hooked, and bare with its account."""

    def __init__(self, version, folder, *styles):
        def run(name, preload, **extra):
            (folder / name).mkdir()
            extra |= {"NNMEM_LOG": "quiet", "TORCHINDUCTOR_CACHE_DIR": folder / "inductor"}
            return harness.script(version, "styles.py", *styles, folder=folder / name, preload=preload, **extra)

        self.bare = run("bare", (harness.COUNT,))
        self.hooked = run("hooked", (harness.HOOK,))
        accounted = run("accounted", (harness.COUNT,), ACCOUNT=1)
        self.db = self.hooked.db()
        births = [event for event, (_, size, *_) in enumerate(accounted.log().events) if size > 0]
        rows = self.db.rows("SELECT *, root || ':' || layer AS label FROM v_allocation ORDER BY alloc_seq")
        self.rows = dict(zip(births, rows))
        self.account = json.loads((folder / "accounted/account.json").read_text())

    def differences(self, style):
        """What is recorded of @style otherwise than the account says, and how many rows of each phase were compared."""
        wrong, compared = [], {}
        for event, size, phase, recompute, label in self.account[style]:
            row = self.rows[event]
            assert row["size_bytes"] == size
            if phase is None:
                continue
            kind = "recompute" if recompute else phase
            compared[kind] = compared.get(kind, 0) + 1
            owned = row["category"] in OWNED and label != row["label"]
            if (row["phase"], row["recompute"]) != (phase, recompute) or (row["label"] != label and not owned):
                wrong.append((event, size, row["phase"], row["recompute"], row["label"], "not", phase, recompute, label))
        return wrong, compared


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """pair(version, group): made when first asked for."""
    made = {}

    def pair(version, group):
        if (version, group) not in made:
            made[version, group] = Pair(version, tmp_path_factory.mktemp(f"{group}-{version}"), *GROUPS[group])
        return made[version, group]

    return pair


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("group", GROUPS)
def test_program_when_recorded_in_any_style_then_does_what_it_did_without(version, group, pairs):
    pair = pairs(version, group)
    pair.db.assert_sound()
    assert pair.hooked.out == pair.bare.out
    assert LOG_PREFIX.sub("", pair.hooked.err) == LOG_PREFIX.sub("", pair.bare.err)
    if group != "inductor":  # its first run compiled for the others
        assert [size for _, size, *_ in pair.db.sequence()] == [size for _, size, *_ in pair.bare.log().events]


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("group,style", [(group, style) for group, styles in GROUPS.items() for style in styles])
def test_layers_and_phases_when_trained_in_a_style_then_are_those_of_the_account(version, group, style, pairs):
    wrong, compared = pairs(version, group).differences(style)
    assert wrong == []
    assert compared.get("forward", 0) >= 12 and compared.get("backward", 0) >= 30
    assert ("recompute" in compared) == style.startswith("checkpoint")


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("group", ["compiled", "inductor"])
def test_steps_when_compiled_then_compiling_makes_none(version, group, pairs):
    steps = pairs(version, group).db.steps()
    assert [row["kind"] for row in steps if row["kind"] != "partial"] == ["setup"] + ["train"] * 3 * len(GROUPS[group])
    roots = {row[0] for row in pairs(version, group).db.rows("SELECT DISTINCT root FROM v_allocation WHERE root IS NOT NULL")}
    assert roots == ({"Net", "Checkpointed", "Mixed"} if group == "compiled" else {"Small"})
    assert pairs(version, group).hooked.out.count("'unique_graphs'") == len(GROUPS[group])
