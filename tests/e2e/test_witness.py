"""The witnesses themselves, without nnmem: they agree with each other and with the expected figures."""

import json

import pytest

import expected
import harness


def train(version, folder, *args, **options):
    done = harness.script(version, "train.py", *args, folder=folder, **options)
    return done, json.loads((folder / "out.json").read_text())


@pytest.mark.parametrize("version", harness.VERSIONS)
@pytest.mark.parametrize("net,batch", [("E1", 1), ("E2", 64)])
def test_profiler_when_a_second_step_is_watched_then_sees_the_expected_figures(version, net, batch, tmp_path):
    _, seen = train(version, tmp_path, net, batch, "momentum", 2, "out.json", "eval", preload=())
    events, retained, forward_peak, peak, inference_peak = expected.FIGURES[version][net, batch]
    step = seen["step"]
    assert (step["events"], step["retained"], step["left"]) == (events, retained, 0)
    if expected.peaks_hold(seen["capability"]):
        assert (step["forward_peak"], step["peak"]) == (forward_peak, peak)
        assert seen["inference"]["peak"] == inference_peak


@pytest.mark.parametrize("version", harness.VERSIONS)
def test_count_preload_when_alone_then_logs_what_the_profiler_sees(version, tmp_path):
    done, seen = train(version, tmp_path, "transformer", 4, "adamw", 3, "out.json", "witness=all", preload=(harness.COUNT,))
    logged = [(size, address) for address, size, _, _ in done.log().events]
    watched = [tuple(event) for event in seen["run"]["sequence"]]
    harness.find(watched, logged)
