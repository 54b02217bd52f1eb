"""Train one model with several processes started by torchrun, using DistributedDataParallel:

    torchrun --standalone --nproc-per-node=2 train.py

Each process holds the whole model and processes its part of every batch. Gradients are averaged before each
step. Without torchrun, everything here is a no-op.
"""

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import numpy
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.files import first_line

PROCESSES = int(os.environ.get("WORLD_SIZE") or 1)          # set by torchrun
RANK = int(os.environ.get("RANK") or 0) if PROCESSES > 1 else 0         # a cluster may export a rank alone
LONGEST_WAIT = timedelta(hours=2)                           # while the first process evaluates and saves


def is_left_alone(error: Exception) -> bool:
    """Return whether an error means that another process has died."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes, if any. Raises ValueError if that fails."""
    if PROCESSES == 1:
        yield
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(timeout=LONGEST_WAIT)       # gloo on the CPU, nccl on CUDA
    except (ValueError, RuntimeError) as error:             # e.g. the port is in use
        reason = f"cannot connect {PROCESSES} processes: {first_line(error)}"
        raise ValueError(f"{reason}; start them with torchrun") from error
    try:
        yield
    except BaseException as error:
        left_alone = isinstance(error, Exception) and is_left_alone(error)
        while error:                                        # its traceback keeps the model alive
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        if left_alone:                                      # the process that died reports why
            raise SystemExit(2) from None
        raise
    finally:
        gc.collect()                                        # a model that outlives the group can hang
        dist.destroy_process_group()


def dropout_seed(seed: int, epoch: int) -> int:
    """Return a seed unique to this run, process and epoch; in a mere sum, neighbouring seeds would clash."""
    return int(numpy.random.SeedSequence((seed, RANK, epoch)).generate_state(1, numpy.uint64)[0] >> 1)


def data_parallel(model: nn.Module) -> nn.Module:
    """Wrap the model so that its backward pass averages the gradients over all processes."""
    return model if PROCESSES == 1 else DistributedDataParallel(model)


def mean_of_all(losses: Tensor) -> Tensor:
    """Average each loss over all processes."""
    if PROCESSES > 1:
        dist.all_reduce(losses)
    return losses / PROCESSES


def from_first(make: Callable[[], object]) -> object:
    """Return, in every process, what the first process makes."""
    made = [make() if RANK == 0 else None]
    if PROCESSES > 1:
        dist.broadcast_object_list(made)
    return made[0]


def own_parts(
    model: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, scored: Tensor, accumulate: int = 1
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
    """Yield this process's micro-batches, each with a loss weight. Usually there is just one.

    scored, shaped like target, marks the tokens that count. The weights make each of them count equally; an
    unweighted mean of means would not, because the parts contain different numbers of scored tokens.
    """
    total = scored.sum()
    split = (tokens.tensor_split(PROCESSES * accumulate) for tokens in (*inputs, target, scored))
    own = list(zip(*split, strict=True))[RANK * accumulate :][:accumulate]
    for number, (*inputs, target, scored) in enumerate(own, start=1):
        wait = PROCESSES > 1 and number < accumulate        # synchronise gradients only after the last part
        with model.no_sync() if wait else nullcontext():
            yield tuple(inputs), target, PROCESSES * scored.sum() / total


def backward(
    model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: tuple[Tensor, ...], target: Tensor, scored: Tensor, accumulate: int = 1, amp: bool = False,
) -> Tensor:
    """Add the gradients of a batch's mean loss, loss_of(model(*inputs), target); return that loss, ().

    With several processes, each returns and back-propagates its own part. For scored, see own_parts.
    accumulate is the number of micro-batches per process, which save memory. amp computes in bfloat16.
    """
    whole = 0.0
    for part, correct, weight in own_parts(model, inputs, target, scored, accumulate):
        with torch.autocast(target.device.type, torch.bfloat16) if amp else nullcontext():
            logits = model(*part)
        loss = weight * loss_of(logits, correct)
        loss.backward()
        whole += loss.detach()
    return whole
