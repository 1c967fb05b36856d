"""What the simulated device is tried with: `python scenarios.py NAME...` trains, and prints what PyTorch says happened as JSON.

Nothing here depends on computed values: kernels do not run.  Scenarios of one process follow each other, each with an empty
cache.  `python scenarios.py --each FILE` makes a process of each line of FILE, forked where importing is done and no device
was touched: "folder name[,name]... [SETTING=value]...".  What it prints goes to `out` and `err` in its folder, its exit status
to `status`.
With SCENARIO_ENDS=at_once the process ends when that is printed, with all that is alive.
"""

import ctypes
import gc
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

import torch
import torch._dynamo  # by torch.optim, and before any fork
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
    before = torch.cuda.memory_stats()["num_alloc_retries"]
    kept = torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_stats()["num_alloc_retries"] == before + 1
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
def convnet():
    """cuDNN's convolutions and batch norm."""
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2),
        torch.nn.BatchNorm2d(32),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    ).cuda()
    with torch.backends.cudnn.flags(enabled=True):
        train(model, lambda device: torch.randn(8, 3, 32, 32, device=device), torch.sum)


@scenario
def convnet_channels_last():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 5), torch.nn.BatchNorm2d(64), torch.nn.Conv2d(64, 64, 5, groups=2))
    model = model.cuda().to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.float16):
        train(model, lambda device: torch.randn(4, 3, 64, 64, device=device), torch.sum)


@scenario
def attention():
    projection = torch.nn.Linear(64, 3 * 64).cuda()
    heads = projection(torch.randn(2, 16, 64, device="cuda")).view(2, 16, 3, 4, 16).permute(2, 0, 3, 1, 4)
    torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True).sum().backward()


@scenario
def embedding():
    table, norm = torch.nn.Embedding(1000, 64).cuda(), torch.nn.LayerNorm(64).cuda()
    words = torch.zeros(4, 8, dtype=torch.long, device="cuda")
    torch.nn.functional.cross_entropy(norm(table(words)).flatten(0, 1), words.flatten()).backward()


@scenario
def accumulation():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(6):
        model(rows("cuda:0")).sum().backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()


@scenario
def inference():
    model = mlp(1024).eval()
    with torch.inference_mode():
        for _ in range(3):
            model(rows("cuda:0"))


@scenario
def several_optimizers():
    """Two models in turn, and every kind of optimizer that keeps something else."""
    first, second = mlp(), torch.nn.Linear(16, 256).cuda()
    kinds = (torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.NAdam)
    for kind in kinds:
        optimizers = [kind(first.parameters()), torch.optim.SGD(second.parameters(), 0.1, momentum=0.9)]
        second(first(rows("cuda:0"))).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@scenario
def lbfgs():
    model, data = mlp(64), rows("cuda:0")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = model(data).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@scenario
def empty_cache_loop():
    model = mlp(2048)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for size in (1, 9, 3, 27):
        model(torch.randn(size << 10, 256, device="cuda")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.empty_cache()


@scenario
def mem_pool():
    """Two pools of the program's own, one given up while the other lives."""
    first, second = torch.cuda.MemPool(), torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(first):
        kept = torch.empty(5 << 20, dtype=torch.uint8, device="cuda")
    with torch.cuda.use_mem_pool(second):
        model = mlp()
    train(model, rows, torch.sum)
    del kept, first
    torch.cuda.empty_cache()
    train(model, rows, torch.sum)


@scenario
def graphs():
    """Capture and replay, with private pools, one of them shared by two graphs."""
    model, data = mlp(), torch.zeros(32, 256, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model(data).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(first):
        out = model(data)
    with torch.cuda.graph(second, pool=first.pool()):
        model.zero_grad(set_to_none=True)
        model(data).sum().backward()
    for _ in range(3):
        first.replay()
        second.replay()
    del out, first, second
    torch.cuda.empty_cache()
    train(model, rows, torch.sum)


@scenario
def pinned_loader():
    dataset = torch.utils.data.TensorDataset(torch.randn(96, 256))
    loader = torch.utils.data.DataLoader(dataset, 32, num_workers=2, pin_memory=True)
    model = mlp()
    for (batch,) in loader:
        model(batch.to("cuda:0", non_blocking=True)).sum().backward()


@scenario
def save_and_load():
    model = mlp()
    with tempfile.TemporaryFile() as file:
        torch.save(model.state_dict(), file)
        file.seek(0)
        model.load_state_dict(torch.load(file, map_location="cuda:0"))
    train(model, rows, torch.sum)


@scenario
def splitting():
    """For PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:...,garbage_collection_threshold:...: segments go when others are wanted."""
    torch.cuda.set_per_process_memory_fraction(0.25)
    for size in (300, 500, 700, 200, 900, 400):
        torch.empty(size << 20, dtype=torch.uint8, device="cuda")
    train(mlp(), rows, torch.sum)


@scenario
def expandable_retry():
    """More than fits is asked for twice: the first time what is cached makes room, the second time nothing does."""
    total = torch.cuda.mem_get_info()[1]
    first = torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    del first
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        kept = torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    try:
        torch.empty(total // 2, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        del kept
    else:
        raise AssertionError("there was no OutOfMemoryError")
    train(mlp(), rows, torch.sum)


@scenario
def pluggable():
    """The program's own allocator, which is SIM_ALLOCATOR."""
    library = os.environ["SIM_ALLOCATOR"]
    torch.cuda.memory.change_current_allocator(torch.cuda.memory.CUDAPluggableAllocator(library, "sim_allocate", "sim_free"))
    train(mlp(), rows, torch.sum)


@scenario
def ddp():
    """One of two ranks, which tell each other through files in SIM_STORE."""
    rank = int(os.environ["RANK"])
    store = torch.distributed.FileStore(os.environ["SIM_STORE"], 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    device = f"cuda:{rank}"
    torch.cuda.set_device(device)
    model = mlp(device=device)
    for parameter in model.parameters():
        torch.distributed.broadcast(parameter.detach(), 0)
    # The simulated device zeroes what is at most 8 bytes when it is read: without a number of parameters, and with more than
    # two numbers of buckets.
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank], init_sync=False, bucket_cap_mb=0.001)
    train(model, rows, torch.sum, device=device)
    torch.distributed.destroy_process_group()


@scenario
def fragmented():
    """For SIMCUDA_MEMORY=1073741824: enough is free for a layer, but a block lies in the midst; then the process is killed."""

    class Wide(torch.nn.Module):
        def forward(self, rows):
            return torch.empty(400 << 20, dtype=torch.uint8, device="cuda")

    def mebibytes(count):
        return torch.empty(count << 20, dtype=torch.uint8, device="cuda")

    whole = mebibytes(600)
    del whole
    first, kept = mebibytes(250), mebibytes(20)
    del first
    model, wide = mlp(), Wide()
    train(model, rows, torch.sum)
    try:
        wide(rows("cuda:0"))
    except torch.OutOfMemoryError:
        snapshot = torch.cuda.memory._snapshot()
        print(json.dumps({"segments": [segment | {"frames": []} for segment in snapshot["segments"]],
                          "stats": torch.cuda.memory_stats(), "free": torch.cuda.mem_get_info()[0]}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


@scenario
def no_library():
    """Nothing that makes a library take memory of its own: no product of matrices."""
    weight = torch.nn.Parameter(torch.ones(300, 700, device="cuda"))
    for _ in range(2):
        (weight * torch.ones(300, 700, device="cuda")).sum().backward()


@scenario
def fragments():
    """Blocks that grow: what is given back in small pieces serves none of the larger ones that follow."""
    for size in range(12, 60, 4):
        tensors = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for _ in range(3)]
        tensors = [torch.empty(size << 19, dtype=torch.uint8, device="cuda") for _ in range(3)]
        del tensors


@scenario
def traps():
    """Asks for something that is not simulated."""
    torch.fft.fft(torch.zeros(64, device="cuda"))


def has_trace():
    """Whether PyTorch's own allocator is used, with its cache: no other is traced, or reports its blocks."""
    return torch.cuda.get_allocator_backend() == "native" and "PYTORCH_NO_CUDA_MEMORY_CACHING" not in os.environ


def said_now(devices):
    """What PyTorch says of each device, how much of its trace there is, and how many lines of the driver's log; its snapshot."""
    snapshot = torch.cuda.memory._snapshot() if has_trace() else {"device_traces": [[] for _ in devices], "segments": []}
    with open(os.environ["SIMCUDA_LOG"]) as log:
        nr_lines = sum(1 for _ in log)
    free = [torch.cuda.mem_get_info(device) for device in devices]
    counted = torch.cuda.get_allocator_backend() != "pluggable"
    return snapshot, {
        "nr_lines": nr_lines,
        "nr_traced": [len(trace) for trace in snapshot["device_traces"]],
        "allocated": [torch.cuda.memory_allocated(device) if counted else None for device in devices],
        "peak": [torch.cuda.max_memory_allocated(device) if counted else None for device in devices],
        "reserved": [torch.cuda.memory_reserved(device) if counted else None for device in devices],
        "used": [total - left for left, total in free],
        "stats": [torch.cuda.memory_stats(device) if has_trace() else {} for device in devices],
    }


def main(names):
    if names != ["pluggable"]:
        torch.cuda.init()
    if has_trace() and names != ["pluggable"]:
        torch.cuda.memory._record_memory_history(max_entries=1000000, context=None)
    ends_at_once = os.environ.get("SCENARIO_ENDS") == "at_once"
    scenarios = {}
    for name in names:
        if scenarios:
            gc.collect()
            torch.cuda.empty_cache()
            for device in devices:
                torch.cuda.reset_peak_memory_stats(device)
        SCENARIOS[name]()
        if ends_at_once:
            # What the hook did not ask the driver yet, because it had asked just before, it asks now.
            time.sleep(0.2)
            torch.empty(1, device="cuda")
        devices = range(torch.cuda.device_count())
        for device in devices:
            torch.cuda.synchronize(device)
        snapshot, scenarios[name] = said_now(devices)
    traces = [[[entry["action"], entry.get("addr"), entry["size"]] for entry in trace] for trace in snapshot["device_traces"]]
    print(
        json.dumps(
            {
                "name": torch.cuda.get_device_name(0),
                "backend": torch.cuda.get_allocator_backend(),
                "trace": traces,
                "segments": [segment | {"frames": []} for segment in snapshot["segments"]],
                "scenarios": scenarios,
                **scenarios[names[-1]],
            }
        ),
        flush=True,
    )
    if ends_at_once:
        os._exit(0)
    time.sleep(0.5)  # for PyTorch's threads, as in seen_scenarios.py


def main_each(lines):
    for line in lines:
        folder, names, *settings = line.split()
        folder = pathlib.Path(folder)
        child = os.fork()
        if not child:
            for number, stream in ((1, "out"), (2, "err")):
                os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT), number)
            os.environ.update(setting.split("=", 1) for setting in settings)
            main(names.split(","))
            sys.exit()
        (folder / "status").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


if __name__ == "__main__":
    if sys.argv[1] == "--each":
        main_each(pathlib.Path(sys.argv[2]).read_text().splitlines())
    else:
        main(sys.argv[1:])
