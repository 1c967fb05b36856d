"""Train one of nets.py for a few steps and leave beside it what the witness saw.

usage: train.py NET BATCH OPTIMIZER STEPS OUT.json [witness=K|all|none] [eval]

Steps count from 1.  The witness watches step K (default: the last), or all of the run from before the net is made.
"""

import json
import sys

import torch

import nets
from witness import Witness


def capability():
    """What torch.backends.cpu.get_cpu_capability() says, also where only the configuration's text does (before 2.0)."""
    if hasattr(torch.backends, "cpu"):
        return torch.backends.cpu.get_cpu_capability()
    return torch.__config__.show().partition("CPU capability usage: ")[2].partition("\n")[0]


def main():
    name, batch, optimizer, steps, out = sys.argv[1:6]
    options = dict(word.partition("=")[::2] for word in sys.argv[6:])
    batch, steps = int(batch), int(steps)
    watched = options.get("witness", str(steps))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {
        "torch": torch.__version__.partition("+")[0],
        "capability": capability(),
        "losses": [],
    }

    def whole_run():
        model, x, y, loss_of = nets.make(name, batch)
        opt = nets.OPTIMIZERS[optimizer](model.parameters())

        def step():
            loss = loss_of(model(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad(set_to_none=True)
            result["losses"].append(loss.item())

        for number in range(1, steps + 1):
            if watched == str(number):
                with Witness() as witness:
                    step()
                result["step"] = witness.summary() | {"sequence": witness.events}
            else:
                step()
        if "eval" in options:
            model.eval()
            with torch.no_grad(), Witness() as witness:
                model(x)
            result["inference"] = witness.summary()

    if watched == "all":
        with Witness() as witness:
            whole_run()
        result["run"] = witness.summary() | {"sequence": witness.events}
    else:
        whole_run()
    with open(out, "w", encoding="utf-8") as file:
        json.dump(result, file)


main()
