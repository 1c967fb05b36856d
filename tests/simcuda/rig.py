"""Run a scenario on the simulated device, and read what the simulated driver says happened."""

import dataclasses
import json

import harness

VERSION = "2.14.1"
LIBRARIES = sorted((harness.BUILD / "simcuda").glob("sim-*.so"))
SCENARIOS = harness.ROOT / "tests/simcuda/scenarios.py"


@dataclasses.dataclass(frozen=True)
class Event:
    """One line of the driver's log; device is -1 for the host's memory, caller the library that called the driver."""

    what: str
    device: int
    address: int
    size: int
    caller: str


@dataclasses.dataclass
class Simulated:
    """A scenario that has ended: what PyTorch says (scenarios.py), and what the driver's log says."""

    finished: harness.Finished
    said: dict
    log: list

    def segments_by_driver(self, device):
        """Segments as the driver saw the runtime, which only PyTorch calls, ask for them."""
        kinds = {"alloc": "segment_alloc", "free": "segment_free"}
        return [
            (kinds[event.what], event.address, event.size)
            for event in self.log
            if event.device == device and event.what in kinds and event.caller == "sim-cudart.so"
        ]

    def segments_by_pytorch(self, device):
        """The same as the allocator's own trace has them."""
        trace = self.said["trace"][device]
        return [tuple(entry) for entry in trace if entry[0] in ("segment_alloc", "segment_free")]

    def maps_by_driver(self, device):
        """Addresses mapped and unmapped for expandable segments, neighbours in one, as the driver saw them."""
        kinds = {"map": "segment_map", "unmap": "segment_unmap"}
        events = [event for event in self.log if event.device == device and event.what in kinds]
        return fused([(kinds[event.what], event.address, event.size) for event in events])

    def maps_by_pytorch(self, device):
        """The same as the allocator's own trace has them."""
        trace = self.said["trace"][device]
        return fused([tuple(entry) for entry in trace if entry[0] in ("segment_map", "segment_unmap")])

    def live(self, device, *callers):
        """Bytes of @device that @callers have and did not give back."""
        sign = {"alloc": 1, "free": -1, "context": 1, "create": 1, "release": -1, "map": 0, "unmap": 0}
        return sum(sign[event.what] * event.size for event in self.log if event.device == device and event.caller in callers)

    def context(self, device):
        return sum(event.size for event in self.log if event.what == "context" and event.device == device)


def fused(events):
    """@events, (what, address, size), those in one that follow each other in order and in address."""
    out = []
    for what, address, size in events:
        if out and out[-1][0] == what and out[-1][1] + out[-1][2] == address:
            out[-1] = (what, out[-1][1], out[-1][2] + size)
        else:
            out.append((what, address, size))
    return out


def read_log(path):
    if not path.exists():
        return []
    events = []
    for line in path.read_text().splitlines():
        what, device, address, size, caller = line.split()
        events.append(Event(what, int(device), int(address, 16), int(size), caller))
    return events


def run(scenario, folder, preload=(), check=True, **settings):
    """Run @scenario in @folder, strict unless SIMCUDA_STRICT says otherwise; @preload goes before the simulated libraries."""
    finished = harness.run(
        [harness.python_of(VERSION), SCENARIOS, scenario],
        folder,
        preload=(*preload, *LIBRARIES),
        check=check,
        **settings_of(folder, settings),
    )
    return simulated_of(finished)


def run_each(wanted, folder):
    """Run each of @wanted, {key: (scenario, settings)}, as run() does with check=False; they share one import of PyTorch."""
    lines = []
    for key, (scenario, settings) in wanted.items():
        (folder / key).mkdir()
        words = [f"{name}={value}" for name, value in settings_of(folder / key, settings).items()]
        lines.append(" ".join([str(folder / key), scenario, *words]))
    (folder / "each").write_text("\n".join(lines))
    harness.run([harness.python_of(VERSION), SCENARIOS, "--each", folder / "each"], folder, preload=LIBRARIES)
    ended = {}
    for key in wanted:
        status, out, err = ((folder / key / name).read_text() for name in ("status", "out", "err"))
        ended[key] = simulated_of(harness.Finished(int(status), out, err, folder / key, 0))
    return ended


def settings_of(folder, settings):
    return {"SIMCUDA_STRICT": 1, "SIMCUDA_LOG": folder / "driver.log", **settings}


def simulated_of(finished):
    said = json.loads(finished.out.splitlines()[-1]) if finished.status == 0 else {}
    return Simulated(finished, said, read_log(finished.folder / "driver.log"))
