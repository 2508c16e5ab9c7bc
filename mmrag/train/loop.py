"""The training loop: a task and pairs in, a better model out."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from mmrag.errors import InputError, Interrupted, TrainingError
from mmrag.machine import keep_freed_memory
from mmrag.sources.pairs import Pair
from mmrag.train import distributed
from mmrag.train.average import Average, named_tensors
from mmrag.train.checkpoint import FOLDER_NAME, Checkpoints, State, identity
from mmrag.train.gradcache import random_state, set_random_state
from mmrag.train.loader import Loader
from mmrag.train.log import LOG_NAME, Entry, Log, Reporter, read_log
from mmrag.train.plot import write_plots
from mmrag.train.recipe import TrainRecipe
from mmrag.train.step import Stepper, checkpoint_gradients, train_mode
from mmrag.train.task import Figures, Moment, Task

logger = logging.getLogger("mmrag")


@dataclass(frozen=True)
class TrainReport:
    """What came of a training.

    Attributes
    ----------
    epoch : int
        The epoch that was kept; 0 is the start, which nothing has beaten.
    epochs, steps : int
        How many were done.
    figures, start_figures : dict
        What was measured of the weights that are kept, and of the start; empty without validation pairs.
    seconds : float
        How long it took.
    skipped : dict of str to int
        Pairs that could not be read, by reason.
    """

    epoch: int
    epochs: int
    steps: int
    figures: Figures
    start_figures: Figures
    seconds: float
    skipped: Mapping[str, int]


def fit(  # one function, because a training is best read in one piece, from top to bottom
    task: Task,
    pairs: Sequence[Pair],
    *,
    val: Sequence[Pair] | None = None,
    out: Path,
    recipe: TrainRecipe,
    device: str = "cpu",
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainReport:
    """Train a task on pairs, keep the best epoch, and write it as a model folder.

    Under torchrun, every process calls it with the same arguments; the first one measures and writes.

    Parameters
    ----------
    task : Task
        Its network is trained in place, and holds what was kept when the function returns.
    pairs : sequence of Pair
        To learn from.
    val : sequence of Pair or None
        Decides, by the task's score, which epoch is kept, the start among them; without it the last one is.
    out : path
        The folder for the model, ``log.jsonl``, plots and, while it runs, ``checkpoint/``.
    recipe : TrainRecipe
        Everything else; its task, start and settings are what `task` was made of.
    device : str
        As torch names it.
    resume : bool
        Whether to go on from the checkpoint in `out`, bit for bit as if the run had never stopped. Where there is none
        yet, the run begins.
    reporter : callable or None
        Called with every entry of the log (`mmrag.train.log`).

    Raises
    ------
    InputError
        If there are too few pairs, `out` is in use, or its checkpoint is of another run.
    TrainingError
        If the loss is no number again and again, or the accelerator has too little memory.
    Interrupted
        After Ctrl-C, with a checkpoint written; a second Ctrl-C ends at once.
    """
    with distributed.joined(device) as place, stopping() as stop, enough_memory():
        began = time.monotonic()
        keep_freed_memory()
        if distributed.rank() == 0:
            claim(out, resume=resume)
        part_size, per_epoch = part_sizes(len(pairs), recipe)
        epochs, steps = recipe.loop.epochs, per_epoch * recipe.loop.epochs

        # what is trained: on its device, and the same in every process
        torch.manual_seed(recipe.data.seed + distributed.rank())
        task.meet(pairs)
        network, layers = task.network.to(place), task.layers()
        distributed.share_tensors(named_tensors(network).values())
        stepper = Stepper(task, layers, recipe)
        average = Average(network, layers, share=recipe.loop.average, tower_share=recipe.loop.tower_share)
        if recipe.loop.checkpoint_gradients:
            checkpoint_gradients(network)
        task.begin(pairs)
        loader = Loader(
            pairs,
            task,
            batch_size=part_size,  # of all processes
            seed=recipe.data.seed,
            threads=recipe.data.threads,
            rank=distributed.rank(),
            world=distributed.world(),
        )

        # where it stands
        checkpoints = Checkpoints(out, identity(recipe, pairs, val), network, stepper, average)
        state = checkpoints.load() if resume else State()
        loader.bad.update({int(row): reason for row, reason in state.bad.items()})
        began -= state.seconds
        log = Log(out, from_step=state.step, reporter=reporter)
        log(
            {
                "kind": "begin",
                "step": state.step,
                "steps": steps,
                "epochs": epochs,
                "device": str(place),
                "seconds": state.seconds,
            }
        )
        if val is not None and state.best_score is None:
            state.start_figures = judge(task, average, val, checkpoints, state, epoch=0)
            log({"kind": "epoch", "step": 0, "epoch": 0, "figures": state.start_figures, "kept": True})

        for epoch in range(state.step // per_epoch + 1, epochs + 1):
            if recipe.loop.patience and val is not None and epoch - 1 - state.best_epoch >= recipe.loop.patience:
                break
            train_mode(network)
            done = state.step % per_epoch
            batches = loader.epoch(epoch, start=done * recipe.loop.accumulate)
            for left in reversed(range(per_epoch - done)):
                started = time.monotonic()
                stepped, told = stepper(batches, Moment(state.step, steps, epoch, epochs))
                state.step += 1
                if stepped:
                    task.after_step(Moment(state.step, steps, epoch, epochs))
                    average.update(state.step)
                state.seconds = time.monotonic() - began
                rate = part_size * recipe.loop.accumulate / (time.monotonic() - started)
                told |= {"samples_per_second": rate, "seconds": state.seconds}
                log({"kind": "step", "step": state.step, "epoch": epoch, **told, **task.logged()})

                # the end of an epoch has a checkpoint of its own, once it is measured
                asked = distributed.anywhere(stop.is_set(), place)
                due = recipe.loop.save_every and state.step % recipe.loop.save_every == 0
                if left and (asked or due):
                    checkpoints.save(state, bad=loader.bad)
                if left and asked:
                    raise interrupted(task, average, checkpoints, state, out, steps=steps)

            entry: Entry = {"kind": "epoch", "step": state.step, "epoch": epoch, "skipped": dict(loader.skipped)}
            if val is not None:
                figures = judge(task, average, val, checkpoints, state, epoch=epoch)
                entry |= {"figures": figures, "kept": state.best_epoch == epoch}
            else:
                state.best_epoch = epoch
            state.seconds = time.monotonic() - began
            log({**entry, "seconds": state.seconds})
            checkpoints.save(state, bad=loader.bad)
            if epoch < epochs and distributed.anywhere(stop.is_set(), place):
                raise interrupted(task, average, checkpoints, state, out, steps=steps)

        put_kept(average, checkpoints, state)
        distributed.share_tensors(named_tensors(network).values())
        if distributed.rank() == 0:
            task.save(out)
            log({"kind": "end", "step": state.step, "epoch": state.best_epoch, "figures": state.best_figures})
            write_plots(out)
            checkpoints.delete()
        return TrainReport(
            epoch=state.best_epoch,
            epochs=state.step // per_epoch,
            steps=state.step,
            figures=state.best_figures,
            start_figures=state.start_figures,
            seconds=time.monotonic() - began,
            skipped=dict(loader.skipped),
        )


def claim(out: Path, *, resume: bool) -> None:
    """Make the folder of a run, or refuse one that holds something else.

    Raises
    ------
    InputError
        If it holds something that this run would not go on with.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{str(out)!r} is no folder; name one that is empty or not there yet")
    out.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in out.iterdir()}
    if FOLDER_NAME in there:
        if not resume:
            raise InputError(
                f"{str(out)!r} holds a run that is not finished: --resume goes on with it; or name another"
            )
    elif LOG_NAME in there and resume:
        if read_log(out)[-1:] and read_log(out)[-1]["kind"] == "end":
            raise InputError(f"the run in {str(out)!r} is finished; to train on: --start {out}, and another --out")
    elif there:
        raise InputError(f"{str(out)!r} is not empty; name a folder that is, or is not there yet")


def part_sizes(pairs: int, recipe: TrainRecipe) -> tuple[int, int]:
    """Give how many pairs a part of a batch has, over all processes, and how many steps an epoch.

    Raises
    ------
    InputError
        If a batch cannot be divided, or there are too few pairs.
    """
    wanted, world, parts = recipe.data.batch_size, distributed.world(), recipe.loop.accumulate
    if wanted % (world * parts):
        raise InputError(
            f"data.batch_size = {wanted} cannot be divided among {world} processes of {parts} parts each; "
            f"take a multiple of {world * parts}"
        )
    each = min(wanted, pairs) // (world * parts)
    if pairs < 2 or not each:
        raise InputError(f"{pairs} pairs are too few to train on: it takes at least {max(2, world * parts)}")
    return each * world, pairs // (each * world * parts)


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event; the second one is what it always was."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals go to that one only
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        asked.set()
        signal.signal(signal.SIGINT, before)
        logger.warning("stopping after this step; Ctrl-C again ends at once, without a checkpoint")

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn an accelerator that has too little of it into an error that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the accelerator has too little memory for this: set loop.grad_cache to 32 where the loss is contrastive, "
            'else a larger loop.accumulate; loop.precision = "bf16"; loop.checkpoint_gradients = true; or a smaller '
            f"data.batch_size ({str(error).splitlines()[0]})"
        ) from error


def judge(
    task: Task, average: Average, val: Sequence[Pair], checkpoints: Checkpoints, state: State, *, epoch: int
) -> Figures:
    """Measure what would be kept if the run ended now, and keep it if it is the best so far."""
    candidate = average.candidate()
    figures: Figures = {}
    score = -math.inf
    if distributed.rank() == 0:
        random = random_state(average.device)  # that measuring draws from it must not change the training
        task.network.eval()
        with average.in_place(candidate), torch.no_grad():
            figures = task.measure(val)
        score = task.score(figures)
        set_random_state(random)
    figures, score = distributed.from_first((figures, -math.inf if math.isnan(score) else score))
    if state.best_score is None or score > state.best_score:
        state.best_epoch, state.best_score, state.best_figures = epoch, score, figures
        if distributed.rank() == 0:
            checkpoints.save_best(epoch, candidate)
    return figures


def put_kept(average: Average, checkpoints: Checkpoints, state: State) -> None:
    """Have the network of the first process hold what is kept: the best epoch, or without measures the last step."""
    if distributed.rank() == 0:
        average.put(average.candidate() if state.best_score is None else checkpoints.load_best(state.best_epoch))


def interrupted(
    task: Task, average: Average, checkpoints: Checkpoints, state: State, out: Path, *, steps: int
) -> Interrupted:
    """Write what there is to keep of a run that ends early, and say how it can go on."""
    said = f"stopped after step {state.step:,} of {steps:,}; the same command with --resume goes on from there"
    if state.best_score is not None and state.best_epoch == 0:
        return Interrupted(f"{said}. No epoch was better than the start so far")
    put_kept(average, checkpoints, state)
    if distributed.rank() == 0:
        task.save(out)
    what = "the weights of now" if state.best_score is None else f"epoch {state.best_epoch}, the best so far"
    return Interrupted(f"{said}. {str(out)!r} is a model already: {what}")
