"""hook/frames.c in this interpreter, against what the interpreter itself says: python check_frames.py PROBE

Ends with status 0 when every frame and every line agrees, 77 where the version is not one that is read.
"""

import argparse
import ast
import ctypes
import dis
import gc
import inspect
import json
import sys
import threading
import types

probe = ctypes.CDLL(sys.argv[1])  # calls without the GIL
probe_held = ctypes.PyDLL(sys.argv[1])
buffer_size = 1 << 20
for library in (probe, probe_held):
    library.probe_line.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.probe_line.restype = ctypes.c_uint32
    library.probe_walk.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.probe_proof.argtypes = [ctypes.c_void_p]
    library.probe_proof.restype = ctypes.c_uint64
    library.probe_cost.restype = ctypes.c_double
if probe_held.probe_start() != 0:
    print("not read:", sys.version)
    sys.exit(77)
FRAMES_MAX = 128
compared = {"frames": 0, "lines": 0}


def read(library, text):
    nr = library.probe_walk(text, buffer_size)
    *lines, end = text.value.decode().splitlines()
    assert nr == len(lines), nr
    return [line.split("\t") for line in lines], end


def said(frame):
    result = []
    while frame is not None:
        code = frame.f_code
        result.append([str(id(code)), str(frame.f_lineno or 0), code.co_filename, getattr(code, "co_qualname", code.co_name)])
        frame = frame.f_back
    return result


def same(library=probe):
    """Compare the caller's frames and those below it."""
    text = ctypes.create_string_buffer(buffer_size)
    # On one line: both ask at the same place.
    got, wanted = read(library, text), said(sys._getframe())
    (frames, end) = got
    # read() itself is on top of what was walked; below it all must agree, but for the lines of the one that asks.
    frames = frames[1:]
    assert end == ("cut" if len(wanted) + 1 > FRAMES_MAX else "whole"), (end, len(wanted))
    wanted = wanted[: FRAMES_MAX - 1]
    assert frames == wanted, "\n".join(f"{a} {b}" for a, b in zip(frames, wanted) if a != b) + f"\n{len(frames)} {len(wanted)}"
    compared["frames"] += len(frames)
    return True


def deep(n):
    return same() if n == 0 else deep(n - 1)


def generator(n):
    for _ in range(n):
        same()
        yield (
            same(),
        )


def delegating():
    yield from generator(2)
    with_lines = [
        same() for _ in range(2)
    ]
    return with_lines


async def coroutine():
    same()
    return [x async for x in asynchronous()]


async def asynchronous():
    same()
    yield 1


class Things:
    same()

    def __init__(self):
        self.__enter__ = None
        same(probe_held)

    def __lt__(self, other):
        same()
        return id(self) < id(other)

    def __del__(self):
        same()

    @property
    def value(self):
        return same()


def run_frames():
    same()
    same(probe_held)
    for depth in (1, 15, 100, 120, 123, 124, 125, 126, 127, 128, 129, 500, 900):
        deep(depth)
    list(delegating())
    try:
        coroutine().send(None)
    except StopIteration:
        pass
    (lambda: (lambda: same())())()
    sorted([Things(), Things(), Things()])  # Python called from C
    Things().value
    gc.collect()
    exec(compile("\n\nsame()\nif True:\n  f = lambda: same()\nf()", "<made up>", "exec"), {"same": same})
    exec(compile("def föö_日本():\n  same()\nföö_日本()", "/dir/fïle_日😀.py", "exec"), {"same": same})
    exec(compile("def f():\n  same()\nf()", "/dir/f\xefle.py", "exec"), {"same": same})
    eval("same()")
    try:
        raise ValueError
    except ValueError:
        same()
    finally:
        same()
    errors = []

    def in_thread():
        try:
            for _ in range(50):
                deep(20)
                list(generator(3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=in_thread) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def codes(code, seen):
    if id(code) in seen:
        return
    seen[id(code)] = code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            codes(constant, seen)


ODD = """
def f(x):
    a = (x +

         1); b = [i
                  for i in range(3)]

    %s
    return a, b; c = 1
""" % (
    "\n" * 400
    + "    try:\n        pass\n    finally:\n        a = {\n" + "\n" * 90 + "'k': 1}\n    while a: break\n" + "    x = 1;" * 300
)


def run_lines():
    """Every byte of every code object of some modules: decoded here and by the interpreter."""
    seen = {}
    codes(compile(ODD, "odd", "exec"), seen)
    for module in (argparse, ast, dis, inspect, json.decoder, threading, types):
        codes(compile(open(module.__file__).read(), module.__file__, "exec"), seen)
    for code in seen.values():
        assert probe_held.probe_line(id(code), -2) == code.co_firstlineno
        for start, end, line in code.co_lines():
            for offset in range(start, end, 2):
                got = probe_held.probe_line(id(code), offset)
                assert got == (line or 0), (code, offset, got, line)
                compared["lines"] += 1


def run_proofs():
    """Code objects that come and go at the same addresses are told apart; the same one is always the same."""
    addresses, proofs, returned = {}, {}, 0
    for i in range(2000):
        code = compile("x = 1\n" * (i % 7) + "y = 2\n" + "\n" * (i % 11) + "z = 3", f"<made {i % 3}>", "exec")
        lines = code.co_filename, *code.co_lines()
        proof = probe_held.probe_proof(id(code))
        assert proof == probe_held.probe_proof(id(code))
        returned += id(code) in addresses
        addresses[id(code)] = True
        key = (id(code), proof)
        assert proofs.setdefault(key, lines) == lines, "a code object was taken for another"
    assert returned > 100, returned


def run_misreadings():
    """A wrong layout is refused, without a crash."""
    for field in range(4):
        for distance in (-32, -24, -16, -8, 8, 16, 24, 32, 64, 1000, 30000):
            assert not probe_held.probe_misread(field, distance)


def cost(depth):
    return min(probe_held.probe_cost(5000) for _ in range(20)) if depth <= 1 else cost(depth - 1)


run_frames()
run_lines()
run_proofs()
run_misreadings()
print(sys.version.split()[0], compared, "walk and proofs at depth 16: %.0f ns" % cost(15))
