"""Run scenarios on the simulated device, and read what the simulated driver says happened."""

import concurrent.futures
import dataclasses
import json

import harness

VERSION = "2.14.1"
SIMULATED = harness.BUILD / "simcuda"
# Without the older runtime, which PyTorch does not use.
LIBRARIES = sorted(path for path in SIMULATED.glob("sim-*.so") if path.name != "sim-cudart12.so")
SCENARIOS = harness.ROOT / "tests/simcuda/scenarios.py"

# What the log calls memory that begins and memory that ends, by what nnmem calls it.
BORN = {"alloc", "pool_alloc", "array_alloc", "ipc_open", "create", "managed_alloc", "host_alloc", "host_register"}
DIED = {"free", "pool_free", "array_free", "ipc_close", "release", "managed_free", "host_free", "host_unregister"}
# What a device is charged for, and what is given back to it.
CHARGED = {"alloc", "managed_alloc", "array_alloc", "create", "context", "pool_grow"}
CREDITED = {"free", "managed_free", "array_free", "release", "pool_shrink"}
# Libraries that call the driver by a way of their own, which nobody between sees.
UNSEEN = {"sim-cublas.so", "sim-cudnn.so"}


@dataclasses.dataclass(frozen=True)
class Event:
    """One line of the driver's log; device is -1 for the host's memory, caller the library that called the driver."""

    what: str
    device: int
    address: int
    size: int
    caller: str

    @property
    def level(self):
        return "pinned" if self.what.startswith("host_") else "managed" if self.what.startswith("managed_") else "segment"


@dataclasses.dataclass
class Happened:
    """One scenario of a process: what PyTorch said after it, its part of the trace by device, and of the driver's log."""

    name: str
    said: dict
    trace: list
    log: list
    log_until: list  # from the beginning of the process to the end of the scenario

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
        return [tuple(entry) for entry in self.trace[device] if entry[0] in ("segment_alloc", "segment_free")]

    def maps_by_driver(self, device):
        """Addresses mapped and unmapped for expandable segments, neighbours in one, as the driver saw them."""
        kinds = {"map": "segment_map", "unmap": "segment_unmap"}
        events = [event for event in self.log if event.device == device and event.what in kinds]
        return fused([(kinds[event.what], event.address, event.size) for event in events])

    def maps_by_pytorch(self, device):
        """The same as the allocator's own trace has them."""
        return fused([tuple(entry) for entry in self.trace[device] if entry[0] in ("segment_map", "segment_unmap")])

    def context(self, device):
        return context(self.log_until, device)

    def charged(self, device, callers=None):
        """Bytes of @device that @callers, None: all, have and did not give back; without contexts."""
        events = [event for event in self.log_until if event.device == device and event.what != "context"]
        events = [event for event in events if callers is None or event.caller in callers]
        return sum(event.size * ((event.what in CHARGED) - (event.what in CREDITED)) for event in events)


@dataclasses.dataclass
class Simulated:
    """A process that has ended: what PyTorch says (scenarios.py), and what the driver's log says."""

    finished: harness.Finished
    said: dict
    log: list

    def of(self, name):
        """What happened in scenario @name."""
        names = list(self.said["scenarios"])
        said = self.said["scenarios"][name]
        before = self.said["scenarios"][names[names.index(name) - 1]] if name != names[0] else None
        start = before["nr_lines"] if before else 0
        starts = before["nr_traced"] if before else [0] * len(said["nr_traced"])
        trace = [trace[a:b] for trace, a, b in zip(self.said["trace"], starts, said["nr_traced"])]
        return Happened(name, said, trace, self.log[start : said["nr_lines"]], self.log[: said["nr_lines"]])

    def context(self, device):
        return context(self.log, device)

    def lives(self, level, device, until=None):
        """Births and deaths of memory that can be seen, as the driver logged them: (+size or -size, address)."""
        return [
            (event.size if event.what in BORN else -event.size, event.address)
            for event in self.log[:until]
            if event.what in BORN | DIED and event.level == level and event.device == device and event.caller not in UNSEEN
        ]


def context(log, device):
    """Bytes of @device's context in @log."""
    return sum(event.size for event in log if event.what == "context" and event.device == device)


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


def run(scenarios, folder, preload=(), check=True, **settings):
    """
    Run @scenarios, one or one after the other in one process, in @folder, strict unless SIMCUDA_STRICT says otherwise; @preload
    goes before the simulated libraries.  Unless NNMEM_CUPTI says otherwise, nnmem sees what it stands before and nothing else:
    what UNSEEN take is then in the log alone.
    """
    finished = harness.run(
        [harness.python_of(VERSION), SCENARIOS, *([scenarios] if isinstance(scenarios, str) else scenarios)],
        folder,
        preload=(*preload, *LIBRARIES),
        check=check,
        **settings_of(folder, {"NNMEM_CUPTI": "off", **settings}),
    )
    return simulated_of(finished)


def run_ranks(scenario, folder, nr_ranks, preload=(), **settings):
    """Run @scenario in @nr_ranks processes at once, each in a folder of its own."""

    def one(rank):
        own = folder / f"rank{rank}"
        own.mkdir()
        return run([scenario], own, preload=preload, RANK=rank, SIM_STORE=folder / "store", **settings)

    with concurrent.futures.ThreadPoolExecutor(nr_ranks) as pool:
        return list(pool.map(one, range(nr_ranks)))


def run_each(wanted, folder):
    """Run each of @wanted, {key: (scenarios, settings)}, as run() does with check=False; they share one import of PyTorch."""
    lines = []
    for key, (scenarios, settings) in wanted.items():
        (folder / key).mkdir()
        words = [f"{name}={value}" for name, value in settings_of(folder / key, settings).items()]
        lines.append(" ".join([str(folder / key), ",".join(scenarios), *words]))
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
