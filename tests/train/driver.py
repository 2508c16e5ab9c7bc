"""Ten lines of a loop, to train a task without the real one."""

from __future__ import annotations

import numpy as np
import torch

from mmrag.train.task import Moment


def drive(task, pairs, *, epochs, batch_size, rate, seed=0):
    """Train with AdamW at a rate that rises and falls; gives what was logged at each step."""
    torch.manual_seed(seed)
    parameters = [one for layer in task.layers() for one in layer.module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    rows = np.random.default_rng(seed)
    per_epoch = len(pairs) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * per_epoch)
    task.begin(pairs)
    logged = []
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = rows.permutation(len(pairs))
        chosen = order[(step % per_epoch) * batch_size :][:batch_size]
        batch = task.collate([task.prepare(pairs[row], np.random.default_rng((seed, step, row))) for row in chosen])
        losses = task.losses(batch, Moment(step, epochs * per_epoch, 1 + step // per_epoch, epochs))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        schedule.step()
        task.after_step(Moment(step + 1, epochs * per_epoch, 1 + step // per_epoch, epochs))
        logged.append({name: one.item() for name, one in losses.items()} | task.logged())
    return logged
