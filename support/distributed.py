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

WORLD_SIZE = int(os.environ.get("WORLD_SIZE") or 1)         # set by torchrun
RANK = int(os.environ.get("RANK") or 0) if WORLD_SIZE > 1 else 0        # a cluster may export a rank alone
TIMEOUT = timedelta(hours=2)                                # while the first process evaluates and saves


def is_peer_failure(error: Exception) -> bool:
    """Return whether an error means that another process has died."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes, if any. Raises ValueError if that fails."""
    if WORLD_SIZE == 1:
        yield
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(timeout=TIMEOUT)            # gloo on the CPU, nccl on CUDA
    except (ValueError, RuntimeError) as error:             # e.g. the port is in use
        reason = f"cannot connect {WORLD_SIZE} processes: {first_line(error)}"
        raise ValueError(f"{reason}; start them with torchrun") from error
    try:
        yield
    except BaseException as error:
        left_alone = isinstance(error, Exception) and is_peer_failure(error)
        while error:                                        # its traceback keeps the model alive
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        if left_alone:                                      # the process that died reports why
            raise SystemExit(2) from None
        raise
    finally:
        gc.collect()                                        # a model that outlives the group can hang
        dist.destroy_process_group()


def check_batch_size(batch_size: int, accumulate: int) -> None:
    """Raise ValueError if a batch is too small to give each process this many micro-batches."""
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate} is too small; choose 1 or more")
    if batch_size < (parts := WORLD_SIZE * accumulate):
        sizes = f"{WORLD_SIZE} processes with accumulate={accumulate}"
        raise ValueError(f"batch_size={batch_size} is too small for {sizes}; choose {parts} or more")


def dropout_seed(seed: int, epoch: int) -> int:
    """Return a seed unique to this run, process and epoch; in a mere sum, neighbouring seeds would clash."""
    return int(numpy.random.SeedSequence((seed, RANK, epoch)).generate_state(1, numpy.uint64)[0] >> 1)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wrap the model so that its backward pass averages the gradients over all processes."""
    return model if WORLD_SIZE == 1 else DistributedDataParallel(model)


def all_reduce_mean(losses: Tensor) -> Tensor:
    """Average each loss over all processes."""
    if WORLD_SIZE > 1:
        dist.all_reduce(losses)
    return losses / WORLD_SIZE


def broadcast_from_rank_zero(make: Callable[[], object]) -> object:
    """Return, in every process, what the first process (rank 0) makes."""
    made = [make() if RANK == 0 else None]
    if WORLD_SIZE > 1:
        dist.broadcast_object_list(made)
    return made[0]


def micro_batches(
    model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor, loss_mask: Tensor,
    accumulation_steps: int = 1,
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
    """Yield this process's micro-batches, each with a loss weight. Usually there is just one.

    loss_mask, shaped like targets, marks the tokens that count. The weights make each of them count equally;
    an unweighted mean of means would not, because micro-batches differ in their number of scored tokens.
    """
    total = loss_mask.sum()
    split = (tokens.tensor_split(WORLD_SIZE * accumulation_steps) for tokens in (*inputs, targets, loss_mask))
    local_batches = list(zip(*split, strict=True))[RANK * accumulation_steps :][:accumulation_steps]
    for number, (*part_inputs, part_targets, part_mask) in enumerate(local_batches, start=1):
        wait = WORLD_SIZE > 1 and number < accumulation_steps           # synchronise only after the last one
        with model.no_sync() if wait else nullcontext():
            yield tuple(part_inputs), part_targets, WORLD_SIZE * part_mask.sum() / total


def backward(
    model: nn.Module, loss_function: Callable[[Tensor, Tensor], Tensor],
    inputs: tuple[Tensor, ...], targets: Tensor, loss_mask: Tensor,
    accumulation_steps: int = 1, amp: bool = False,
) -> Tensor:
    """Add the gradients of a batch's mean loss, loss_function(model(*inputs), targets); return that loss, ().

    With several processes, each returns and back-propagates its own part. For loss_mask, see micro_batches.
    accumulation_steps is the number of micro-batches per process, which save memory; amp means bfloat16.
    """
    total = 0.0
    for part, part_targets, weight in micro_batches(model, inputs, targets, loss_mask, accumulation_steps):
        with torch.autocast(targets.device.type, torch.bfloat16) if amp else nullcontext():
            logits = model(*part)
        loss = weight * loss_function(logits, part_targets)
        loss.backward()
        total += loss.detach()
    return total
