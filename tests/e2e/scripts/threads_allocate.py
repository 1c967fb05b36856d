"""Make and drop small tensors of one size on several threads at once.

usage: threads_allocate.py THREADS TENSORS
"""

import sys
import threading

import torch


def work(amount):
    kept = []
    for _ in range(amount):
        kept.append(torch.empty(8))
        if len(kept) > 50:
            kept.clear()


threads = [threading.Thread(target=work, args=(int(sys.argv[2]),)) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
