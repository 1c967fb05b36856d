"""What the Python adapter says, and what a program under it can see of it.

Every script runs under listen_preload (the adapter with a hook that writes down what it is told); "with and without" tests
run it again with nothing preloaded and compare what it printed.
"""

import pathlib
import re
import sys
import textwrap

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import harness  # noqa: E402

LISTEN = harness.BUILD / "lib/listen_preload.so"
EVERY_VERSION = pytest.mark.parametrize("version", harness.VERSIONS)

# Date, time and pid in the log lines of PyTorch and Kineto.
LOG_PREFIX = re.compile(r"[IWE]\d{4} [\d:.]+ \d+ |\d{4}-\d\d-\d\d [\d:]+ \d+:\d+ ")

MODULE, OPTIMIZER, TENSOR, INFO = 31, 32, 33, 40
PARAMETER, BUFFER, STATE, GRADIENT = 1, 2, 3, 4

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, x):
        return self.rest(self.first(x))

def train(net, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(5, 3)).sum().backward()
        optimizer.step()
"""


class Told:
    """What the adapter said."""

    def __init__(self, text):
        self.lines = text.splitlines()
        self.definitions = []  # (kind, scope, address, size, a, b, fields)
        for line in self.lines:
            if line.startswith("define "):
                numbers, _, fields = line[7:].partition("|")
                self.definitions.append((*map(int, numbers.split()), fields.split("|")))
        self.notes = [line[5:] for line in self.lines if line.startswith("note ")]
        self.reports = [int(line[8:]) for line in self.lines if line.startswith("reports ")]
        self.info = {fields[0]: fields[1] for kind, *_, fields in self.definitions if kind == INFO}

    def modules(self):
        """{id: (path, class, root)}, the last definition of each."""
        return {scope: tuple(fields) for kind, scope, *_, fields in self.definitions if kind == MODULE}

    def tensors(self, what):
        """[(module id, name, dtype, shape, state key, bytes)]"""
        return [
            (scope, *fields, size) for kind, scope, _, size, a, _, fields in self.definitions if kind == TENSOR and a == what
        ]

    def calls(self):
        """
        Module calls as a text: one line a call, indented by depth, with root flags, what a checkpoint runs again as "again";
        checks that they are balanced.
        """
        modules, depth, seen = self.modules(), {}, []
        for line in self.lines:
            word, *rest = line.split()
            if word == "enter":
                number, flags, thread = rest
                outermost = depth.get(thread, 0) == 0
                assert outermost or flags[0] != "r", line
                path, _, root = modules.get(int(number), ("", "", ""))
                said = f"{root}:{path}" + (f" {flags[1:]}" if flags[0] == "r" else "")
                seen.append("  " * depth.get(thread, 0) + ("again" if outermost and flags[0] != "r" else said))
                depth[thread] = depth.get(thread, 0) + 1
            elif word == "leave":
                depth[rest[0]] -= 1
        assert not any(depth.values()), depth
        return seen

    def words(self, *wanted):
        return [line for line in self.lines if line.split()[0] in wanted]


def execute(version, folder, source, *options, preload=(LISTEN,), **extra):
    path = folder / "script.py"
    path.write_text(textwrap.dedent(source))
    return harness.run([harness.python_of(version), *options, path], folder, preload=preload, **extra)


def listen(version, folder, source, *options, notes=0, **extra):
    done = execute(version, folder, source, *options, LISTEN_FILE=folder / "told", **extra)
    told = Told((folder / "told").read_text())
    assert len(told.notes) == notes, told.notes
    told.out, told.err = done.out, done.err
    return told


def with_and_without(version, folder, source, **extra):
    """Run it both ways; what it prints must not differ.  Returns what the adapter said."""
    without = execute(version, folder, source, preload=(), **extra)
    told = listen(version, folder, source, **extra)
    assert told.out == without.out
    assert LOG_PREFIX.sub("", told.err) == LOG_PREFIX.sub("", without.err)
    return told


# ---- what is said


@EVERY_VERSION
def test_adapter_when_a_net_trains_then_names_modules_and_tensors(version, tmp_path):
    told = listen(version, tmp_path, NET + "net = Net()\ntrain(net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), 2)\n")
    assert told.modules() == {
        1: ("", "Net", "Net"),
        2: ("first", "Linear", "Net"),
        3: ("rest", "Sequential", "Net"),
        4: ("rest.0", "ReLU", "Net"),
        5: ("rest.1", "BatchNorm1d", "Net"),
        6: ("rest.2", "Linear", "Net"),
    }
    assert told.tensors(PARAMETER) == [
        (2, "first.weight", "float32", "4,3", "", 48),
        (2, "first.bias", "float32", "4", "", 16),
        (5, "rest.1.weight", "float32", "4", "", 16),
        (5, "rest.1.bias", "float32", "4", "", 16),
        (6, "rest.2.weight", "float32", "2,4", "", 32),
        (6, "rest.2.bias", "float32", "2", "", 8),
    ]
    assert [row[:2] for row in told.tensors(BUFFER)] == [
        (5, "rest.1.running_mean"),
        (5, "rest.1.running_var"),
        (5, "rest.1.num_batches_tracked"),
    ]
    parameters = [(row[0], row[1], row[5]) for row in told.tensors(PARAMETER)]
    assert [(row[0], row[1], row[5]) for row in told.tensors(STATE)] == parameters
    assert {row[4] for row in told.tensors(STATE)} == {"momentum_buffer"}
    assert [(row[0], row[1], row[5]) for row in told.tensors(GRADIENT)] == parameters * 2
    step = ["Net: gt", "  Net:first", "  Net:rest", "    Net:rest.0", "    Net:rest.1", "    Net:rest.2"]
    assert told.calls() == step * 2
    assert told.words("begin", "end") == ["begin 1", "end"] * 2
    assert [line.split()[2] for line in told.words("input")] == ["60", "60"]


@EVERY_VERSION
def test_adapter_when_something_is_recorded_then_says_the_versions(version, tmp_path):
    source = "import sys, torch, platform\nprint(torch.__version__, torch.version.cuda)\nx = torch.ones(3)\nimport colorsys\n"
    told = listen(version, tmp_path, source)
    assert f"{told.info['torch_version']} {told.info.get('cuda')}" == told.out.strip()
    assert told.info["python_version"].startswith("3.") and told.info["adapter"] == "attached"
    assert {"torch_git", "cpu_capability", "num_threads"} <= told.info.keys()


@EVERY_VERSION
def test_adapter_when_only_tensors_are_made_then_says_the_versions(version, tmp_path):
    told = listen(version, tmp_path, "import torch\nfor i in range(1000):\n    x = torch.ones(3)\n")
    assert told.info["torch_version"].startswith(version)
    assert len([line for line in told.words("define") if "torch_version" in line]) == 1


@EVERY_VERSION
def test_adapter_when_torch_is_only_imported_then_says_nothing(version, tmp_path):
    assert listen(version, tmp_path, "import torch\nimport colorsys\n").lines == ["reports 0"]


def test_adapter_when_torch_is_not_imported_then_says_nothing(tmp_path):
    assert listen(harness.VERSIONS[0], tmp_path, "import json, threading\n").lines == ["reports 0"]


# ---- ways in

TRAINED = "net = Net()\ntrain(net, torch.optim.SGD(net.parameters(), 0.1))\n"


@EVERY_VERSION
@pytest.mark.parametrize("way", ["script", "isolated", "module", "command", "thread", "import in a thread", "import twice"])
def test_adapter_when_started_in_every_way_then_is_there(version, way, tmp_path):
    source, options = NET + TRAINED, ()
    if way == "isolated":
        places = harness.run([harness.python_of(version), "-c", "import sys; print(sys.path)"], tmp_path, preload=(), PYTHONPATH=None)
        source, options = f"import sys\nsys.path[:] = {places.out}\n" + source, ("-I", "-S")
    elif way == "thread":
        body = textwrap.indent(TRAINED, "    ")
        source = NET + f"import threading\ndef work():\n{body}\nt = threading.Thread(target=work)\nt.start()\nt.join()\n"
    elif way == "import in a thread":
        body = textwrap.indent(NET + TRAINED, "    ")
        source = f"import threading\ndef work():\n{body}\nt = threading.Thread(target=work)\nt.start()\nt.join()\n"
    elif way == "import twice":
        source = "import torch.nn\nimport torch.optim\nimport torch._dynamo\n" + source
    if way in ("module", "command"):
        (tmp_path / "trainer.py").write_text(source)
        words = ["-m", "trainer"] if way == "module" else ["-c", source]
        harness.run(
            [harness.python_of(version), *words], tmp_path, preload=(LISTEN,), LISTEN_FILE=tmp_path / "told", PYTHONPATH=tmp_path
        )
        told = Told((tmp_path / "told").read_text())
    else:
        told = listen(version, tmp_path, source, *options)
    assert len(told.modules()) == 6 and len(told.calls()) == 6 and told.words("begin", "end") == ["begin 1", "end"]


LATE = f"""
import torch, torch._dynamo, torch.fx, ctypes, types
made_before = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
ctypes.CDLL({str(LISTEN)!r})
import colorsys  # an audit event
"""


@EVERY_VERSION
def test_adapter_when_loaded_late_then_wraps_what_is_there(version, tmp_path):
    source = LATE + NET + TRAINED + "compiled = torch.compile(Net(), backend='eager', fullgraph=True)\ncompiled(torch.ones(5, 3))\n"
    done = execute(version, tmp_path, source, preload=(), LISTEN_FILE=tmp_path / "told")
    told = Told((tmp_path / "told").read_text())
    assert not told.notes and done.err == ""
    assert told.words("begin", "end") == ["begin 1", "end"]
    assert len(told.calls()) == 8  # the compiled one, and the module in it


# ---- balance


@EVERY_VERSION
def test_calls_when_forward_and_step_raise_then_stay_balanced(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
net = Net()
for _ in range(2):
    try:
        net(torch.randn(5, 7))
    except RuntimeError:
        pass
    try:
        torch.optim.SGD(net.parameters(), 0.1).step(lambda: 1 / 0)
    except ZeroDivisionError:
        pass
net(torch.randn(5, 3))
""",
    )
    assert told.calls().count("Net: gt") == 3
    assert told.words("begin", "end") == ["begin 1", "end"] * 2


@EVERY_VERSION
def test_calls_when_the_first_is_interrupted_before_the_walk_then_names_come_with_the_next(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
import sys
net = Net()
interrupted = []
def stop(frame, event, arg):
    if frame.f_code.co_filename == "<nnmem>" and frame.f_code.co_name == "__init__":  # of Known: just before it is kept
        sys.settrace(None)
        interrupted.append(frame)
        raise KeyboardInterrupt
sys.settrace(stop)
try:
    net(torch.ones(5, 3))
except KeyboardInterrupt:
    pass
assert len(interrupted) == 1
net(torch.ones(5, 3))
""",
    )
    assert [call.partition(":")[2] for call in told.calls()[-6:]] == [" gt", "first", "rest", "rest.0", "rest.1", "rest.2"]


@EVERY_VERSION
def test_calls_when_a_signal_handler_raises_anywhere_then_stay_balanced(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
import random, signal, time
random.seed(1)
net = Net()
def interrupt(*unused):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
def work(k):
    global interrupted
    torch.set_grad_enabled(True)  # PyTorch's own no_grad may have been cut short
    other = Net()
    optimizer = torch.optim.Adam(other.parameters())
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2.5e-3))
        train(other, optimizer, 2)
        net(torch.ones(5, 3))
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
work(0)
for k in range(400):
    try:
        work(k)
    except (KeyboardInterrupt, RuntimeError):
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
torch.set_grad_enabled(True)
assert interrupted > 50, interrupted
assert torch._C._is_torch_function_enabled()
net(torch.ones(5, 3))
train(net, torch.optim.Adam(net.parameters()))
""",
    )
    paths = [call.partition(":")[2] for call in told.calls()[-12:]]
    assert paths == [" gt", "first", "rest", "rest.0", "rest.1", "rest.2"] * 2
    assert len(told.words("begin")) == len(told.words("end")) > 50


@EVERY_VERSION
def test_modules_when_names_are_very_long_then_are_cut_and_nothing_is_missing(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
class Long(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("\u00e9" * 50000, nn.Linear(2, 2))
    def forward(self, x):
        return self.get_submodule("\u00e9" * 50000)(x)
Long.__name__ = "N" * 50000
Long()(torch.ones(1, 2))
""",
    )
    assert told.modules() == {
        1: ("", "N" * 997 + "\u2026", "N" * 997 + "\u2026"),
        2: ("\u00e9" * 498 + "\u2026", "Linear", "N" * 997 + "\u2026"),
    }
    assert [tuple(tensor[2:5]) for tensor in told.tensors(PARAMETER)] == [("float32", "2,2", ""), ("float32", "2", "")]


@EVERY_VERSION
@pytest.mark.parametrize("handler", ["function", "Handler().method", "Handler()", "functools.partial(function)"])
def test_calls_when_a_signal_handler_raises_while_the_adapter_runs_then_it_passes(version, handler, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + f"""
import functools, signal
class TimeIsUp(Exception):
    pass
def function(*unused):
    raise TimeIsUp
class Handler:
    def method(self, *unused):
        raise TimeIsUp
    __call__ = method
class Odd(nn.Module):
    fails = False
    @property
    def training(self):  # nobody but the adapter asks
        if Odd.fails:
            raise ValueError
        signal.raise_signal(signal.SIGALRM)
        return True
    @training.setter
    def training(self, value):
        pass
    def forward(self, x):
        return x
signal.signal(signal.SIGALRM, {handler})
try:
    Odd()(torch.ones(2))
    print("lost")
except TimeIsUp:
    pass
Odd.fails = True
Odd()(torch.ones(2))  # an error that the adapter meets is no affair of the program
net = Net()
net(torch.ones(5, 3))
""",
        notes=1,
    )
    assert told.out == ""
    assert [call.partition(":")[2] for call in told.calls()[-6:]][1:] == ["first", "rest", "rest.0", "rest.1", "rest.2"]


@EVERY_VERSION
def test_calls_when_eight_threads_train_then_each_has_its_own(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
import threading
nets = [Net() for _ in range(8)]
barrier = threading.Barrier(8)
def work(net):
    barrier.wait()
    train(net, torch.optim.Adam(net.parameters()), 20)
threads = [threading.Thread(target=work, args=(net,)) for net in nets]
[t.start() for t in threads]
[t.join() for t in threads]
""",
    )
    roots = {root for _, _, root in told.modules().values()}
    assert roots == {"Net", *(f"Net#{n}" for n in range(2, 9))}
    assert len(told.calls()) == 8 * 20 * 6 and len(told.words("begin")) == len(told.words("end")) == 160


# ---- names


@EVERY_VERSION
def test_names_when_models_and_losses_come_and_go_then_are_taken_over(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
for _ in range(50):
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(torch.randn(5, 3))
    nn.CrossEntropyLoss()(torch.ones(2, 2, requires_grad=True), torch.tensor([0, 1])).backward()
    optimizer.step()
    del net, optimizer
one, two = Net(), Net()
one(torch.ones(5, 3)), two(torch.ones(5, 3))
for _ in range(100):
    fast = {name: parameter * 2 for name, parameter in one.named_parameters()}
    torch.func.functional_call(one, fast, (torch.ones(5, 3),))
""",
    )
    assert len(told.tensors(PARAMETER)) == 52 * 6 and len(told.tensors(BUFFER)) == 52 * 3
    assert {root for _, _, root in told.modules().values()} == {"Net", "Net#2", "CrossEntropyLoss"}
    assert sum(kind == MODULE for kind, *_ in told.definitions) == 13
    assert sum(kind == OPTIMIZER for kind, *_ in told.definitions) == 1


@EVERY_VERSION
def test_names_when_a_root_turns_out_to_be_part_of_another_then_moves(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
net = Net()
net(torch.ones(5, 3))
class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = net
    def forward(self, x):
        return nn.Dropout()(self.model(x))
outer = Outer()
outer(torch.ones(5, 3))
net(torch.ones(5, 3))
""",
    )
    modules = told.modules()
    assert modules[1] == ("model", "Net", "Outer") and modules[6] == ("model.rest.2", "Linear", "Outer")
    assert ("(Dropout)", "Dropout", "Outer") in modules.values()
    assert told.calls()[-6] == "Outer:model gt"
    assert ("model.first.weight", 48) in [(row[1], row[5]) for row in told.tensors(PARAMETER)]


@EVERY_VERSION
def test_names_when_tensors_move_or_are_shared_then_are_said_again(version, tmp_path):
    told = listen(
        version,
        tmp_path,
        NET
        + """
net = Net()
net.rest[2].weight = nn.Parameter(torch.ones(2, 4))
net.other = net.first
net.again = nn.Linear(3, 4)
net.again.weight = net.first.weight
net(torch.ones(5, 3))
net.double()
net(torch.ones(5, 3).double())
net.first.register_parameter("late", nn.Parameter(torch.ones(6).double()))
net(torch.ones(5, 3).double())
net.rest[2] = nn.Linear(4, 9).double()
net(torch.ones(5, 3).double())
net.rest[0] = nn.Identity()
net(torch.ones(5, 3).double())
""",
    )
    rows = [(row[1], row[2], row[5]) for row in told.tensors(PARAMETER)]
    assert rows.index(("first.weight", "float32", 48)) < rows.index(("first.weight", "float64", 96))
    assert ("again.weight", "float32", 48) in rows and ("again.weight", "float64", 96) in rows
    assert ("first.late", "float64", 48) in rows and ("rest.2.weight", "float64", 288) in rows
    assert not any(row[0].startswith("other") for row in rows)
    assert ("rest.0", "Identity", "Net") in told.modules().values()


@EVERY_VERSION
def test_names_when_tensors_are_odd_then_does_not_trip(version, tmp_path):
    told = with_and_without(
        version,
        tmp_path,
        """
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.overrides import TorchFunctionMode

class Logged(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        print("logged", getattr(func, "__name__", func))
        return super().__torch_function__(func, types, args, kwargs or {})

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.lazy = nn.LazyLinear(4)
        self.weight = nn.Parameter(torch.ones(4))
        self.empty = nn.Parameter(torch.ones(0))
        self.register_buffer("none", None)
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("csr", torch.eye(3).to_sparse_csr())
        self.register_buffer("meta", torch.ones(5, device="meta"))
        self.register_buffer("view", torch.ones(10)[5:])
        self.logged = nn.Parameter(torch.ones(4).as_subclass(Logged))
        self.register_buffer("quantized", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    def forward(self, x, more=None, extra=()):
        return self.lazy(x) * self.weight

odd = Odd()
class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        print("function", getattr(func, "__name__", func))
        return func(*args, **(kwargs or {}))
class Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        print("dispatch", func)
        return func(*args, **(kwargs or {}))
x = torch.ones(2, 3)
for _ in range(2):
    odd(x, more={"a": [x, (x.as_subclass(Logged),)]}, extra=[torch.eye(2).to_sparse(), 1, "x", None])
optimizer = torch.optim.Adam([p for p in odd.parameters()])
with Functions(), Dispatches():
    other = Odd()
    for _ in range(5):
        odd(x)
        other(x).sum().backward()
        odd(x).sum().backward()
        optimizer.step()
print(torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack())
with torch.inference_mode():
    odd(x)
print(torch.func.vmap(odd.weight.mul)(torch.ones(2, 4)).shape)
def loss(parameters, x):
    return torch.func.functional_call(odd, parameters, (x,)).sum()
simple = {n: p.detach() for n, p in odd.named_parameters()}
print(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(simple, torch.ones(2, 2, 3))["weight"].shape)
""",
    )
    rows = {row[1]: row for row in told.tensors(PARAMETER) + told.tensors(BUFFER)}
    assert {"lazy.weight", "weight", "view", "logged"} <= rows.keys()
    assert not {"none", "sparse", "csr", "meta", "empty"} & rows.keys()
    assert rows["view"][5] == 40 and rows["view"][3] == "5"
    assert ("lazy", "Linear", "Odd") in told.modules().values()
    told.calls()


# ---- what the program can see


@EVERY_VERSION
def test_program_when_recorded_then_makes_the_same_tensors(version, tmp_path):
    source = NET + "net = Net()\ntrain(net, torch.optim.Adam(net.parameters()), 20)\nnet.double()\nnet(torch.ones(5, 3).double())\n"
    with_adapter = listen(version, tmp_path, source)
    without = listen(version, tmp_path, source, LISTEN_OFF=1)
    assert len(without.lines) == 1 and with_adapter.reports == without.reports and with_adapter.reports[0] > 500


@EVERY_VERSION
def test_program_when_recorded_then_its_objects_have_no_more_references(version, tmp_path):
    with_and_without(
        version,
        tmp_path,
        NET
        + """
import gc, sys, weakref, copy, pickle, io
net = Net()
optimizer = torch.optim.Adam(net.parameters())
x = torch.randn(5, 3)
for _ in range(4):
    optimizer.zero_grad()
    net(x).sum().backward()
    optimizer.step()
print([sys.getrefcount(o) for o in (net, net.first, net.first.weight, net.first.weight.grad, x, optimizer, optimizer.state)])
print(sorted(net.__dict__), sorted(net.first.__dict__), sorted(optimizer.__dict__), len(optimizer.state))
for state in optimizer.state.values():
    print({k: sys.getrefcount(v) for k, v in state.items()})
twin = copy.deepcopy(net)
print(len(pickle.dumps(net)), len(pickle.dumps(optimizer)), pickle.dumps(nn.ReLU()) == pickle.dumps(nn.ReLU()))
file = io.BytesIO()
torch.save(net, file)
file.seek(0)
print(type(torch.load(file, weights_only=False)), twin(x).shape, list(twin.state_dict()))
print(pickle.loads(pickle.dumps(nn.Module.__call__)) is nn.Module.__call__)
gc.disable()
from torch.utils.checkpoint import checkpoint
for reentrant in (False, True):
    block = nn.Linear(3, 3)
    out = checkpoint(block, x.clone().requires_grad_(), use_reentrant=reentrant)
    print(sys.getrefcount(block), sys.getrefcount(out))
    out.sum().backward()
    gone = weakref.ref(block)
    del block, out
    print(gone())
net.head = head = nn.Linear(2, 2)
net(x)
dead = [weakref.ref(o) for o in (net, net.first, net.rest[2].weight, head.weight, optimizer)]
del net.head, head
print(dead[3]())
del net, optimizer, state
print([d() is None for d in dead])
""",
    )


@EVERY_VERSION
def test_program_when_it_raises_then_its_traceback_has_only_our_file_more(version, tmp_path):
    source = (
        NET
        + """
import traceback, os
class Bad(nn.Module):
    def forward(self, x):
        raise ValueError("bad")
try:
    nn.Sequential(nn.ReLU(), Bad())(torch.ones(1))
except ValueError as error:
    frames = traceback.extract_tb(error.__traceback__)
    print([(os.path.basename(f.filename), f.name) for f in frames if f.filename != "<nnmem>" and f.name != "_wrapped_call_impl"])
    print(len(frames), [f.name for f in frames])
try:
    torch.optim.SGD([torch.ones(1, requires_grad=True)], 0.1).step(1, 2, 3)
except TypeError as error:
    print(error)
def deep(n):
    module = nn.Identity()
    for _ in range(n):
        module = nn.Sequential(module)
    return module
for n in range(150, 400):
    try:
        deep(n)(torch.ones(1))
    except RecursionError:
        print("deepest", n)
        break
"""
    )
    with_and_without(version, tmp_path, source)


@EVERY_VERSION
def test_program_when_it_patches_calls_then_its_patches_work(version, tmp_path):
    told = with_and_without(
        version,
        tmp_path,
        NET
        + """
import functools
class Own(nn.Module):
    def __call__(self, x):
        print("own")
        return super().__call__(x) + 1
    def forward(self, x):
        return x
print(Own()(torch.ones(1)))
before = nn.Module.__call__
def patched(self, *args, **kwargs):
    print("patched", type(self).__name__)
    return before(self, *args, **kwargs)
nn.Module.__call__ = patched
print(Own()(torch.ones(1)), nn.Identity()(torch.ones(1)))
nn.Module.__call__ = before
print(nn.Identity()(torch.ones(1)))
linear = nn.Linear(1, 1)
linear.forward = lambda x: x * 7
print(linear(torch.ones(1)))
linear.register_forward_pre_hook(lambda m, a: print("pre", len(a)))
linear.register_forward_hook(lambda m, a, out: out + 1)
handle = nn.modules.module.register_module_forward_hook(lambda m, a, out: print("global", type(m).__name__))
print(linear(torch.ones(1)))
handle.remove()
print(before.__name__, before.__module__, before.__doc__, before.__code__.co_varnames[:3])
import inspect
print(inspect.signature(nn.Module.__call__), inspect.signature(torch.optim.SGD.step), torch.optim.SGD.step.__wrapped__.__name__)
optimizer = torch.optim.SGD(linear.parameters(), 0.1)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
import warnings
warnings.simplefilter("error")
optimizer.register_step_pre_hook(lambda *a: print("before step"))
linear(torch.ones(1, requires_grad=True)).backward()
optimizer.step(), scheduler.step()
print(optimizer.step.__name__, torch.optim.SGD.step.hooked)
class Mine(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})
    def step(self, closure=None):
        print("mine", closure)
        return 5
print(Mine(linear.parameters()).step())
class NoState(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)
print(NoState(linear.parameters(), 0.1).step(lambda: 3))
""",
    )
    assert len(told.words("begin")) == len(told.words("end")) == 4
    told.calls()


@EVERY_VERSION
def test_program_when_states_are_looked_at_then_none_is_made(version, tmp_path):
    told = with_and_without(
        version,
        tmp_path,
        NET
        + """
net = Net()
net.unused = nn.Linear(2, 2)
optimizer = torch.optim.Adam(net.parameters())
train(net, optimizer, 4)
print(len(optimizer.state), [len(s) for s in optimizer.state.values()])
import copy
optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
train(net, optimizer, 1)
sgd = torch.optim.SGD(net.parameters(), 0.1)
train(net, sgd, 4)
print(len(sgd.state))
lbfgs = torch.optim.LBFGS(net.parameters(), max_iter=3)
def closure():
    lbfgs.zero_grad()
    loss = net(torch.ones(5, 3)).square().sum()
    loss.backward()
    return loss
print(lbfgs.step(closure).isfinite())
adagrad = torch.optim.Adagrad([torch.ones(3, requires_grad=True)])
adagrad.step()
scaler = torch.amp.GradScaler("cpu")
scaler.scale(net(torch.ones(5, 3)).sum()).backward()
scaler.step(sgd)
scaler.update()
print(scaler.get_scale())
""",
    )
    keys = {(row[1], row[4]) for row in told.tensors(STATE)}
    assert {("first.weight", "exp_avg"), ("first.weight", "step"), ("param_groups[0][0]", "sum")} <= keys
    assert sum(row[1] == "first.weight" and row[4] == "exp_avg" for row in told.tensors(STATE)) == 2  # load_state_dict
    assert ("first.weight", "old_dirs[0]") in keys
    assert told.words("update") == ["update"]
    told.calls()


COMPILED = """
import torch._dynamo
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
counter = CompileCounter()
class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.inner.register_forward_hook(lambda m, a, out: out + 1)
    def forward(self, x):
        return self.inner(x) * 2
class Broken(Net):
    def forward(self, x):
        x = self.first(x)
        torch._dynamo.graph_break()
        return self.rest(x)
torch.manual_seed(0)
x = torch.randn(5, 3)
for make, full in ((Net, True), (Hooked, True), (Broken, False)):
    net = make()
    compiled = torch.compile(net, backend=counter, fullgraph=full)
    for _ in range(3):
        out = compiled(x)
    print(make.__name__, out.sum(), counter.frame_count, counter.op_count)
    whole = torch.compile(lambda x: net(x) + 1, backend=counter, fullgraph=full)
    for _ in range(3):
        out = whole(x)
    print(out.sum(), counter.frame_count, counter.op_count)
    other = make()
    other.compile(backend=counter, fullgraph=full)
    print(other(x).sum(), counter.frame_count)
    other(x)
    print(other(torch.randn(7, 3)).shape, counter.frame_count)
aot = torch.compile(Net(), backend="aot_eager", fullgraph=True)
aot(x).sum().backward()
optimizer = torch.optim.SGD(aot.parameters(), 0.1)
step = torch.compile(optimizer.step, backend=counter)
step(), step()
print(counter.frame_count, counter.op_count)
print({k: dict(v) for k, v in counters.items() if k in ("stats", "graph_break", "frames", "recompiles")})
print(list(aot.state_dict())[0])
"""


@EVERY_VERSION
def test_compile_when_recorded_then_the_same_graphs_are_made(version, tmp_path):
    told = with_and_without(version, tmp_path, NET + COMPILED)
    assert "Net: gt" in told.calls()
    assert not any("_orig_mod" in path or kind == "OptimizedModule" for path, kind, _ in told.modules().values())


@EVERY_VERSION
def test_trace_when_recorded_then_the_same_graphs_are_made(version, tmp_path):
    told = with_and_without(
        version,
        tmp_path,
        NET
        + """
import torch.fx, warnings
torch.manual_seed(0)
warnings.simplefilter("ignore")
net = Net().eval()
x = torch.randn(5, 3)
print(torch.jit.trace(net, x).graph)
scripted = torch.jit.script(net)
print(scripted(x), scripted.rest(net.first(x)))
print(torch.fx.symbolic_trace(net).graph)
print(torch.fx.symbolic_trace(net)(x))
print(torch.export.export(net, (x,)).graph)
from torch.fx.experimental.proxy_tensor import make_fx
print(make_fx(net)(x).graph)
from torch.utils.checkpoint import checkpoint
for reentrant in (False, True):
    checkpoint(net, x.requires_grad_(), use_reentrant=reentrant).sum().backward()
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    print(Net()(torch.ones(5, 3)).shape)
with torch.device("meta"):
    print(Net()(torch.ones(5, 3)).shape)
""",
    )
    assert told.calls().count("again") == 2
    assert ("first", "Linear", "Net") in told.modules().values()


@EVERY_VERSION
def test_profiler_when_recorded_then_sees_the_same_modules(version, tmp_path):
    with_and_without(
        version,
        tmp_path,
        NET
        + """
import json, re
from torch.profiler import profile, ProfilerActivity
net = Net()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with profile(activities=[ProfilerActivity.CPU], with_stack=True, with_modules=True, record_shapes=True, profile_memory=True) as seen:
    train(net, optimizer, 2)
seen.export_chrome_trace("trace.json")
names = [e["name"] for e in json.load(open("trace.json"))["traceEvents"] if e.get("ph") == "X"]
print(sorted(n for n in names if n.startswith(("nn.Module", "Optimizer", "aten", "autograd"))))
""",
    )


@EVERY_VERSION
def test_program_when_forked_then_children_say_nothing_and_work(version, tmp_path):
    done = execute(
        version,
        tmp_path,
        NET
        + """
import os
from torch.utils.data import DataLoader
net = Net()
x = torch.ones(5, 3)
net(x)
loader = DataLoader([torch.ones(3) for _ in range(8)], batch_size=4, num_workers=2)
print(sum(net(batch).shape[0] for batch in loader))
""",
        LISTEN_FILE=tmp_path / "told",
    )
    assert done.out == "8\n"


@EVERY_VERSION
def test_adapter_when_off_then_leaves_torch_alone(version, tmp_path):
    told = listen(version, tmp_path, NET + TRAINED + "print(nn.Module.__call__.__code__.co_filename)\n", LISTEN_OFF=1)
    assert told.out.strip().endswith("module.py") and len(told.lines) == 1


def test_source_when_read_then_its_kinds_are_those_of_the_record_header():
    header = (harness.ROOT / "include/nnmem/record.h").read_text()
    number = {name: int(value) for name, value in re.findall(r"RECORD_(\w+) = (\d+)", header)}
    assert (number["DEF_MODULE"], number["DEF_OPTIMIZER"], number["DEF_TENSOR"], number["INFO"]) == (MODULE, OPTIMIZER, TENSOR, INFO)
    kinds = [number[f"TENSOR_{name}"] for name in ("PARAMETER", "BUFFER", "STATE", "GRADIENT")]
    assert kinds == [PARAMETER, BUFFER, STATE, GRADIENT]
