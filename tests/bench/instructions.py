"""What being recorded costs in instructions: a figure that no other load on the machine disturbs.

usage: instructions.py [LOAD STEPS]...        (default: transformer 10, E2 2)

Each load runs under valgrind's callgrind for one step and for STEPS more; what the start costs falls out of the difference.
Counted are the trainer's own instructions in user mode: neither the recorder's, which is another process, nor what a
record costs in waiting for memory, nor PyTorch's choice of wider vectors than valgrind knows.  Takes a quarter of an hour.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

import harness  # noqa: E402  (found only with the path above)

VERSION = harness.VERSIONS[0]
VARIANTS = {
    "bare": ((), {}),
    "nnmem without stacks": ((harness.HOOK,), {"NNMEM_STACKS": "off"}),
    "nnmem": ((harness.HOOK,), {}),
}


def instructions(folder, variant, what, steps):
    preload, extra = VARIANTS[variant]
    log = folder / "callgrind.log"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.out", f"--log-file={log}"]
    subprocess.run(
        [*command, harness.python_of(VERSION), HERE / "load.py", what],
        cwd=folder,
        env=harness.environment(preload, **extra),
        input=f"{steps}\n",
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    # What was forked to start the recorder counts for itself, up to its exec: the trainer's own line is the last.
    return int(re.findall(r"Collected : (\d+)", log.read_text())[-1])


def main():
    words = sys.argv[1:] or ["transformer", "10", "E2", "2"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for what, steps in zip(words[::2], map(int, words[1::2])):
            print(f"{what}, PyTorch {VERSION}: instructions of a training step")
            bare = None
            for variant in VARIANTS:
                few, many = (instructions(folder, variant, what, amount) for amount in (1, 1 + steps))
                each = (many - few) / steps
                bare = bare or each
                print(f"  {variant:<26} {each:15,.0f}  {100 * (each / bare - 1):+8.3f} %", flush=True)


main()
