"""What the simulated device is tried with: `python scenarios.py NAME` trains, and prints what PyTorch says happened as JSON.

Nothing here depends on computed values: kernels do not run.  One scenario per process; `python scenarios.py --each FILE`
makes one of each line of FILE, forked where importing is done and no device was touched: "folder name [SETTING=value]...".
What it prints goes to `out` and `err` in its folder, its exit status to `status`.
With SCENARIO_ENDS=at_once the process ends when that is printed, with all that is alive.
"""

import ctypes
import json
import os
import pathlib
import sys
import threading

import torch
import torch.utils.checkpoint

SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def train(model, data, loss, steps=2, device="cuda:0", **optimizer):
    optimizer = torch.optim.AdamW(model.parameters(), **optimizer)
    for _ in range(steps):
        loss(model(data(device))).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return optimizer


def mlp(width=512, device="cuda:0"):
    layers = [torch.nn.Linear(256, width), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 16)]
    return torch.nn.Sequential(*layers).to(device)


def rows(device):
    return torch.randn(32, 256, device=device)


@scenario
def mlp_adamw():
    train(mlp(), rows, torch.sum)


@scenario
def mlp_fused():
    model = mlp(2048)
    train(model, rows, torch.sum, fused=True)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


@scenario
def transformer_bf16():
    layer = torch.nn.TransformerEncoderLayer(128, 4, 512, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        train(model, lambda device: torch.randn(4, 32, 128, device=device), torch.sum)


@scenario
def free_and_retry():
    """More than fits is asked for while the cache holds memory: PyTorch gives segments back and tries again."""
    total = torch.cuda.mem_get_info()[1]
    first = torch.empty(total // 4, dtype=torch.uint8, device="cuda")
    second = torch.empty(total // 4, dtype=torch.uint8, device="cuda")
    del first, second
    kept = torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_stats()["num_alloc_retries"] == 1
    del kept
    torch.cuda.empty_cache()
    train(mlp(), rows, torch.sum)


@scenario
def out_of_memory():
    model = mlp()
    try:
        torch.empty(torch.cuda.mem_get_info()[1], dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        pass
    else:
        raise AssertionError("there was no OutOfMemoryError")
    train(model, rows, torch.sum)


@scenario
def one_failure():
    """For SIMCUDA_FAIL_AT: an allocation fails that would fit; PyTorch tries again and trains on."""
    train(mlp(2048), rows, torch.sum)
    assert torch.cuda.memory_stats()["num_alloc_retries"] == 1


@scenario
def two_devices():
    first, second = mlp(device="cuda:0"), torch.nn.Linear(16, 4).to("cuda:1")
    for _ in range(2):
        second(first(rows("cuda:0")).to("cuda:1")).sum().backward()


@scenario
def streams():
    """For SIMCUDA_EVENT_LAG: blocks that another stream used come back only when an event is ready."""
    side = torch.cuda.Stream()
    for _ in range(4):
        tensor = torch.empty(4 << 20, dtype=torch.uint8, device="cuda")
        with torch.cuda.stream(side):
            tensor.fill_(1)
        tensor.record_stream(side)
        del tensor
    train(mlp(), rows, torch.sum)


@scenario
def threads():
    errors = []

    def one():
        try:
            train(mlp(), rows, torch.sum)
        except Exception as error:  # told to the main thread
            errors.append(error)

    workers = [threading.Thread(target=one) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors, errors


@scenario
def expandable():
    """For PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True: memory is created and mapped, given back and created again."""
    large = torch.zeros(48 << 20, dtype=torch.uint8, device="cuda")
    train(mlp(), rows, torch.sum)
    del large
    torch.cuda.empty_cache()
    train(mlp(2048), rows, torch.sum)


@scenario
def pinned():
    host = torch.randn(1024, 256).pin_memory()
    assert host.is_pinned()
    train(mlp(), lambda device: host.to(device, non_blocking=True), torch.sum)


@scenario
def checkpointing():
    model = mlp()
    for _ in range(2):
        torch.utils.checkpoint.checkpoint(model, rows("cuda:0"), use_reentrant=False).sum().backward()


@scenario
def grad_scaler():
    model, scaler = mlp(), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        with torch.autocast("cuda", torch.float16):
            loss = model(rows("cuda:0")).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


@scenario
def by_a_library():
    """Memory that others than PyTorch take through the runtime: found as libraries find it, and past whoever stands before it."""
    torch.zeros(1, device="cuda")
    address = ctypes.c_void_p()
    for runtime, size in ((None, 6 << 20), ("libcudart.so.13", 4 << 20)):
        assert ctypes.CDLL(runtime).cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)) == 0
    train(mlp(), rows, torch.sum)


@scenario
def kept():
    """What the training made is still there when it ends."""
    globals()["alive"] = model = mlp()
    globals()["optimizer"] = train(model, rows, torch.sum, steps=3)


@scenario
def traps():
    """Asks for something that is not simulated."""
    torch.fft.fft(torch.zeros(64, device="cuda"))


def main(name):
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(max_entries=1000000, context=None)
    SCENARIOS[name]()
    torch.cuda.synchronize()
    devices = range(torch.cuda.device_count())
    snapshot = torch.cuda.memory._snapshot()
    free = [torch.cuda.mem_get_info(device) for device in devices]
    print(
        json.dumps(
            {
                "name": torch.cuda.get_device_name(0),
                "trace": [
                    [[entry["action"], entry.get("addr"), entry["size"]] for entry in trace]
                    for trace in snapshot["device_traces"]
                ],
                "segments": [segment | {"frames": []} for segment in snapshot["segments"]],
                "stats": [torch.cuda.memory_stats(device) for device in devices],
                "allocated": [torch.cuda.memory_allocated(device) for device in devices],
                "peak": [torch.cuda.max_memory_allocated(device) for device in devices],
                "reserved": [torch.cuda.memory_reserved(device) for device in devices],
                "used": [total - left for left, total in free],
            }
        ),
        flush=True,
    )
    if os.environ.get("SCENARIO_ENDS") == "at_once":
        os._exit(0)


def main_each(lines):
    for line in lines:
        folder, name, *settings = line.split()
        folder = pathlib.Path(folder)
        child = os.fork()
        if not child:
            for number, stream in ((1, "out"), (2, "err")):
                os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT), number)
            os.environ.update(setting.split("=", 1) for setting in settings)
            main(name)
            sys.exit()
        (folder / "status").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


if __name__ == "__main__":
    if sys.argv[1] == "--each":
        main_each(pathlib.Path(sys.argv[2]).read_text().splitlines())
    else:
        main(sys.argv[1])
