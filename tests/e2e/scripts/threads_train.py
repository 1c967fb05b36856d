"""Train the small-tensor transformer on several threads at once, each with a net of its own.

usage: threads_train.py THREADS STEPS
With one thread: on a thread that is not the main one, which waits in join() meanwhile.
"""

import sys
import threading

import torch

import nets


def train(steps, barrier):
    model, x, y, loss_of = nets.make("transformer", 4)
    opt = nets.OPTIMIZERS["adamw"](model.parameters())
    barrier.wait()
    for _ in range(steps):
        loss_of(model(x), y).backward()
        opt.step()
        opt.zero_grad()


def main():
    nr_threads, steps = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    barrier = threading.Barrier(nr_threads)
    threads = [threading.Thread(target=train, args=(steps, barrier)) for _ in range(nr_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
