"""What the simulated CUPTI is tried with: `python cupti_scenarios.py NAME`.  The client is cupti_client.c, preloaded."""

import ctypes
import json
import sys
import time

SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def client():
    """Functions of the preloaded client, which is in the global scope."""
    return ctypes.CDLL(None)


# With PyTorch --------------------------------------------------------------------------------------------------------


def train(width=256):
    import torch

    layers = [torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 8)]
    model = torch.nn.Sequential(*layers).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    rows = torch.randn(16, 64, pin_memory=True).cuda()
    model(rows).sum().backward()
    optimizer.step()
    torch.randn(1 << 22, device="cuda").sum()  # large enough to be summed by blocks that count themselves, from zero
    torch.cuda.synchronize()
    del model, optimizer, rows
    torch.cuda.empty_cache()


def profiled(path, **settings):
    import torch

    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        train(**settings)
    profiler.export_chrome_trace(path)


@scenario
def profile_twice():
    """The second time with another number of the same things; what lies between belongs to neither."""
    profiled("trace-0.json")
    train()
    profiled("trace-1.json", width=512)


@scenario
def train_as_client():
    train()
    client().client_flush(1)


@scenario
def train_as_client_beside_the_profiler():
    train()
    client().client_mark(b"profiler")
    profiled("trace-0.json")
    client().client_mark(b"profiled")
    train(width=512)
    client().client_flush(1)


# Without, by the driver's and the runtime's functions -----------------------------------------------------------------


class Call:
    """Functions of a library, which succeed."""

    def __init__(self, soname):
        self.library = ctypes.CDLL(soname)

    def __getattr__(self, name):
        def call(*arguments):
            status = getattr(self.library, name)(*(ctypes.c_size_t(a) if isinstance(a, int) else a for a in arguments))
            assert status == 0, (name, status)

        return call


def got(function, *arguments):
    """What @function wrote to its first argument, a pointer or a number of that size."""
    result = ctypes.c_size_t()
    function(ctypes.byref(result), *arguments)
    return result.value


MIB = 1 << 20


@scenario
def all_kinds_of_memory():
    runtime, driver = Call("libcudart.so.13"), Call("libcuda.so.1")
    device = got(runtime.cudaMalloc, 3 * MIB)
    pinned = got(runtime.cudaHostAlloc, 5000, 0)
    managed = got(runtime.cudaMallocManaged, 7 * MIB, 1)
    stream = got(runtime.cudaStreamCreate)
    pool = (ctypes.c_int * 64)(1, 0, 1, 0)  # cudaMemPoolProps: pinned, no handles, on device 0
    own = got(runtime.cudaMemPoolCreate, ctypes.byref(pool))
    runtime.cudaMemPoolSetAttribute(own, 4, ctypes.byref(ctypes.c_uint64(64 * MIB)))
    pooled = got(runtime.cudaMallocFromPoolAsync, 9 * MIB, own, stream)
    other = got(runtime.cudaMallocAsync, 2 * MIB, 0)
    runtime.cudaFreeAsync(pooled, stream)
    runtime.cudaFree(other)
    runtime.cudaMemPoolTrimTo(own, MIB)
    runtime.cudaMemPoolDestroy(own)
    place = (ctypes.c_int * 64)(1, 0, 1, 0)  # CUmemAllocationProp, the same
    handle = got(driver.cuMemCreate, 4 * MIB, ctypes.byref(place), 0)
    driver.cuMemRelease(handle)
    by_driver = got(driver.cuMemAlloc_v2, 6 * MIB)
    driver.cuMemFree_v2(by_driver)
    channels = (ctypes.c_int * 5)(32, 0, 0, 0, 2)  # cudaChannelFormatDesc: one of floats
    array = got(runtime.cudaMallocArray, ctypes.byref(channels), 100, 200, 0)
    runtime.cudaFreeArray(array)
    runtime.cudaFree(managed)
    runtime.cudaFreeHost(pinned)
    runtime.cudaSetDevice(1)
    second = got(runtime.cudaMalloc, 8 * MIB)
    runtime.cudaFree(device)
    runtime.cudaFree(second)
    client().client_flush(1)
    print(json.dumps({"pool": own}))


@scenario
def twenty():
    """Twenty allocations of a size of their own, and their frees; 40 records."""
    runtime = Call("libcudart.so.13")
    addresses = [got(runtime.cudaMalloc, (i + 1) * 1000) for i in range(20)]
    for address in addresses:
        runtime.cudaFree(address)
    client().client_mark(b"flush")
    status = client().client_flush(1)
    client().client_mark(b"flushed")
    if "late" in sys.argv:
        time.sleep(1.5)
    timestamp = got(Call("libcupti.so.13").cuptiGetTimestamp)
    print(json.dumps({"flush": status, "timestamp": timestamp}))


@scenario
def many_threads():
    """Four threads allocate and free; with `flush` another one flushes all the while."""
    import threading

    runtime = Call("libcudart.so.13")
    ended, together = threading.Event(), threading.Barrier(4)

    def allocate(i):
        together.wait()
        for j in range(50):
            address = got(runtime.cudaMalloc, 1000 * i + j + 1)
            runtime.cudaFree(address)

    def flush():
        while not ended.wait(0.001):
            client().client_flush(0)

    threads = [threading.Thread(target=allocate, args=(i,)) for i in range(4)]
    flusher = threading.Thread(target=flush)
    for thread in threads + ([flusher] if "flush" in sys.argv else []):
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    if flusher.ident:
        flusher.join()
    client().client_flush(1)


@scenario
def pending():
    """Memory is filled, and somebody waits for that; and filled again, and nobody does."""
    runtime = Call("libcudart.so.13")
    address = got(runtime.cudaMalloc, MIB)
    runtime.cudaMemset(address, 0, MIB)
    client().client_flush(0)
    client().client_mark(b"flushed")
    runtime.cudaDeviceSynchronize()
    client().client_flush(0)
    client().client_mark(b"synchronized")
    runtime.cudaMemset(address, 0, MIB)
    client().client_flush(1)


@scenario
def finalized():
    runtime, cupti = Call("libcudart.so.13"), Call("libcupti.so.13")
    got(runtime.cudaMalloc, 1000)
    cupti.cuptiFinalize()
    client().client_mark(b"finalized")
    got(runtime.cudaMalloc, 2000)
    print(json.dumps({"flush": client().client_flush(1)}))


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
    if "torch" in sys.modules:
        time.sleep(0.5)  # for PyTorch's threads, as in seen_scenarios.py
