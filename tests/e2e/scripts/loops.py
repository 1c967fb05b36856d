"""Train in one of many kinds of loop and keep a diary of steps and phases, by the script's own account.

usage: loops.py LOOP [FILE]    (under count_preload.so; writes diary.json)

The diary is a list of [event, OS thread, step, phase]: from that event of the log on, until the thread's next entry, the
thread was in that phase; the kinds of the steps; and where gradients are worked on between a backward and the update.  Nothing of nnmem is used: each loop says itself where its steps
begin, and entries are made by the loop, by hooks that PyTorch offers, and by methods that Lightning lets a user
override.
"""

import contextlib
import copy
import json
import os
import sys
import threading

import torch
from torch import nn

from marks import Marks

now = Marks.now
entries = []
kinds = ["setup"]
worked = []  # [first event, event after the last]
phases = threading.local()


def note(phase, later=0):
    """This thread is in @phase from here on, or from @later events on."""
    phases.now = phase
    entries.append([now() + later, threading.get_native_id(), len(kinds) - 1, phase])


def step(kind="train"):
    """A step begins here."""
    kinds.append(kind)
    note(getattr(phases, "now", "static"))


@contextlib.contextmanager
def during(phase, after):
    note(phase)
    try:
        yield
    finally:
        note(after)


@contextlib.contextmanager
def working():
    start = now()
    yield
    worked.append([start, now()])


def net(width=20):
    return nn.Sequential(nn.Linear(width, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5))


def batch(width=20):
    return torch.randn(16, width), torch.randint(0, 5, (16,))


def loss_of(model, x, y):
    """Begins a forward, which lasts until the backward."""
    note("forward")
    return nn.functional.cross_entropy(model(x).float(), y)


def backward(loss, after="other"):
    """The gradient that the engine starts from is made before it starts: one event of the forward."""
    note("backward", later=1)
    loss.backward()
    note(after)


def stepped(opt, *args, after="other"):
    with during("optimizer", after):
        return opt.step(*args)


def clear(opt, **how):
    opt.zero_grad(**how)


def tell_steps(opt, begins=False):
    """Entries at the steps of an optimizer that somebody else calls; @begins: each begins a step."""

    def before(*_):
        if begins:
            step()
        note("optimizer")

    opt.register_step_pre_hook(before)
    opt.register_step_post_hook(lambda *_: note("other"))
    return opt


# ---- loops


def lbfgs():
    model = net()
    opt = torch.optim.LBFGS(model.parameters(), max_iter=3, history_size=2)
    x, y = batch()

    def closure():
        clear(opt)
        loss = loss_of(model, x, y)
        backward(loss, after="optimizer")
        return loss

    for _ in range(3):
        step()
        stepped(opt, closure)
        model.eval()
        step("eval")
        with torch.no_grad(), during("inference", "other"):
            model(x)
        model.train()


def gan():
    maker, judge = net(), nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 1))
    opt_judge, opt_maker = torch.optim.Adam(judge.parameters()), torch.optim.Adam(maker.parameters())
    real, noise = torch.randn(16, 5), torch.randn(16, 20)
    for _ in range(3):
        step()
        note("forward")
        loss = judge(real).mean() - judge(maker(noise).detach()).mean()
        backward(loss)
        stepped(opt_judge)
        clear(opt_judge)
        note("forward")
        loss = -judge(maker(noise)).mean()
        backward(loss)
        stepped(opt_maker)
        clear(opt_maker)
        clear(opt_judge)
        del loss
        noise = torch.randn(16, 20)


def amp(dtype):
    """Most losses have no finite gradients, the first and the last among them: the scaler skips those steps."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    tell_steps(opt)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype is torch.float16)
    for index in range(6):
        x, y = batch()
        step()
        note("forward")
        with torch.autocast("cpu", dtype=dtype):
            loss = nn.functional.cross_entropy(model(x).float(), y)
        if index % 3 != 1 and scaler.is_enabled():
            loss = loss * float("inf")
        backward(scaler.scale(loss))
        with working():
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        clear(opt)
        del loss


def optimizers():
    """Four optimizers in one step, fused, foreach and plain; gradients stay allocated."""
    model = nn.ModuleList(net() for _ in range(4))
    opts = [
        torch.optim.AdamW(model[0].parameters(), fused=True),
        torch.optim.Adam(model[1].parameters(), foreach=True),
        torch.optim.SGD(model[2].parameters(), lr=0.01, momentum=0.9, fused=True),
        torch.optim.Adagrad(model[3].parameters(), foreach=False),
    ]
    for _ in range(3):
        x, y = batch()
        step()
        note("forward")
        loss = sum(nn.functional.cross_entropy(part(x), y) for part in model)
        backward(loss)
        for opt in opts:
            stepped(opt)
        for opt in opts:
            clear(opt, set_to_none=False)


def in_backward():
    model = net()
    opts = {p: torch.optim.SGD([p], lr=0.01, momentum=0.9) for p in model.parameters()}

    def at_gradient(parameter):
        stepped(opts[parameter], after="backward")
        clear(opts[parameter])

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(at_gradient)
    for _ in range(3):
        x, y = batch()
        step()
        backward(loss_of(model, x, y))


def evaluation(mode):
    """An evaluation of two batches after every second step, in the middle of training."""
    model = net()
    opt = torch.optim.Adam(model.parameters())
    for index in range(4):
        x, y = batch()
        step()
        backward(loss_of(model, x, y))
        stepped(opt)
        clear(opt)
        if index % 2:
            model.eval()
            x, y = batch()
            step("eval")
            with mode():
                for _ in range(2):
                    with during("inference", "other"):
                        out = model(x)
                    nn.functional.cross_entropy(out, y).item()
            del out
            model.train()


def accumulation():
    """Three micro-batches a step, clipped; gradients stay allocated."""
    model = net()
    opt = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        for micro in range(3):
            x, y = batch()
            if micro == 0:
                step()
            backward(loss_of(model, x, y) / 3)
        with working():
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stepped(opt)
        clear(opt, set_to_none=False)


def lr_finder():
    """Trains with ever larger rates, goes back to where it was, then trains."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    kept = copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict())

    def train(rates):
        for rate in rates:
            opt.param_groups[0]["lr"] = rate
            x, y = batch()
            step()
            loss = loss_of(model, x, y)
            clear(opt)
            backward(loss)
            stepped(opt)
            loss.item()

    train([1e-4, 1e-3, 1e-2])
    model.load_state_dict(kept[0])
    opt.load_state_dict(kept[1])
    train([1e-3, 1e-3])


def replaced():
    """After two steps another optimizer takes over, of another class and while the first one is still there."""
    model = net()
    first, second = torch.optim.SGD(model.parameters(), lr=0.01), torch.optim.Adam(model.parameters())
    for index in range(5):
        x, y = batch()
        step()
        backward(loss_of(model, x, y))
        opt = first if index < 2 else second
        stepped(opt)
        clear(opt)


def averaged():
    """A moving average of the weights after each step; at the end its statistics are made anew and it is evaluated."""
    model = net()
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    x, y = batch()
    for _ in range(3):
        step()
        backward(loss_of(model, x, y))
        stepped(opt)
        mean.update_parameters(model)
        clear(opt)
    mean.register_forward_pre_hook(lambda *_: note("inference"))
    mean.register_forward_hook(lambda *_: note("other"))
    torch.optim.swa_utils.update_bn([x, x], mean)
    mean.eval()
    step("eval")
    with torch.no_grad():
        mean(x)


def by_hand():
    """No torch.optim: momentum written by hand."""
    model = net()
    x, y = batch()
    momenta = [torch.zeros_like(p) for p in model.parameters()]
    for _ in range(4):
        step()
        backward(loss_of(model, x, y))
        with torch.no_grad(), working():
            for parameter, momentum in zip(model.parameters(), momenta):
                momentum.mul_(0.9).add_(parameter.grad)
                parameter -= 0.01 * momentum
                parameter.grad = None


def functional_update():
    """Gradients from autograd.grad, parameters made anew in each step; no module owns what is trained."""
    model = net()
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    x, y = batch()
    for _ in range(4):
        step()
        note("forward")
        loss = nn.functional.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)
        note("backward", later=1)
        grads = torch.autograd.grad(loss, list(weights.values()))
        note("other")
        with torch.no_grad():
            weights = {n: (w - 0.1 * g).requires_grad_() for (n, w), g in zip(weights.items(), grads)}
        del grads, loss


def two_threads():
    """Two models in two threads that take turns between phases; the one that steps first has the steps."""
    turns = threading.Semaphore(1), threading.Semaphore(0)

    def train(me):
        def pass_on():
            turns[1 - me].release()
            turns[me].acquire()

        turns[me].acquire()
        model = net(20 + me)
        opt = torch.optim.Adam(model.parameters())
        for _ in range(3):
            x, y = batch(20 + me)
            pass_on()
            if me == 0:
                step()
            loss = loss_of(model, x, y)
            pass_on()
            backward(loss)
            pass_on()
            stepped(opt)
            pass_on()
            clear(opt)
        del loss, x, y, model, opt
        turns[1 - me].release()

    threads = [threading.Thread(target=train, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- loops that somebody else wrote


def lightning_module(automatic):
    import lightning

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()
            self.automatic_optimization = automatic

        def configure_optimizers(self):
            return tell_steps(torch.optim.Adam(self.parameters()), begins=automatic)

        def training_step(self, rows, index):
            if automatic:
                return loss_of(self.net, *rows)
            step()
            self.manual_backward(loss_of(self.net, *rows))
            opt = self.optimizers()
            opt.step()
            opt.zero_grad()

        def validation_step(self, rows, index):
            if index == 0 and not self.trainer.sanity_checking:
                step("eval")
            with during("inference", "other"):
                self.net(rows[0])

        def backward(self, loss, *args, **kwargs):
            note("backward", later=1)
            loss.backward(*args, **kwargs)
            note("optimizer" if automatic else "other")

    return Lit()


def lightning_fit(automatic):
    import lightning

    rows = torch.utils.data.TensorDataset(*batch())
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    quiet = {key: False for key in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=2, limit_train_batches=3, num_sanity_val_steps=1, **quiet)
    trainer.fit(lightning_module(automatic), loader, loader)


def trainer():
    """Two micro-batches a step, clipped, evaluated after each epoch."""
    import transformers

    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**size, max_position_embeddings=16, num_labels=3))
    rows = [{"input_ids": torch.randint(0, 50, (8,)), "labels": torch.tensor(index % 3)} for index in range(16)]
    micro_batches = [0]

    def before_call(module, *_):
        if module.training:
            if micro_batches[0] % 2 == 0:
                step()
            micro_batches[0] += 1
        elif kinds[-1] != "eval":
            step("eval")
        note("forward" if module.training else "inference")

    model.register_forward_pre_hook(before_call)
    model.register_forward_hook(lambda module, *_: None if module.training else note("other"))
    plain = torch.Tensor.backward

    def told_backward(loss, *args, **kwargs):
        note("backward", later=1)
        plain(loss, *args, **kwargs)
        note("other")

    torch.Tensor.backward = told_backward

    class Told(transformers.Trainer):
        def create_optimizer(self, *args, **kwargs):
            return tell_steps(super().create_optimizer(*args, **kwargs))

    arguments = transformers.TrainingArguments(
        output_dir="out",
        use_cpu=True,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Told(model, arguments, train_dataset=rows, eval_dataset=rows[:8]).train()


def ddp():
    """One rank of two; RANK is in the environment, and the file where they meet is named on the command line."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(os.environ["RANK"]), world_size=2)
    model = nn.parallel.DistributedDataParallel(net())
    opt = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        x, y = batch()
        step()
        backward(loss_of(model, x, y))
        stepped(opt)
        clear(opt)
    torch.distributed.destroy_process_group()


LOOPS = {
    "lbfgs": lbfgs,
    "gan": gan,
    "amp_bfloat16": lambda: amp(torch.bfloat16),
    "amp_float16": lambda: amp(torch.float16),
    "optimizers": optimizers,
    "in_backward": in_backward,
    "eval_no_grad": lambda: evaluation(torch.no_grad),
    "eval_inference_mode": lambda: evaluation(torch.inference_mode),
    "accumulation": accumulation,
    "lr_finder": lr_finder,
    "replaced": replaced,
    "averaged": averaged,
    "by_hand": by_hand,
    "functional_update": functional_update,
    "two_threads": two_threads,
    "lightning_automatic": lambda: lightning_fit(True),
    "lightning_manual": lambda: lightning_fit(False),
    "trainer": trainer,
    "ddp": ddp,
}

torch.set_num_threads(1)
torch.manual_seed(0)
LOOPS[sys.argv[1]]()
with open("diary.json", "w", encoding="utf-8") as diary:
    json.dump({"entries": entries, "kinds": kinds, "worked": worked}, diary)
