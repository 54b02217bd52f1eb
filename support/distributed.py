"""Train one model with several processes started by torchrun, using DistributedDataParallel:

    torchrun --standalone --nproc-per-node=2 train.py

Each process holds the whole model and processes its part of every batch. Gradients are averaged before each
step. Without torchrun, everything here is a no-op.
"""

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from support.files import first_line


def place_in_group() -> tuple[int, int]:
    """Return this process's rank and the number of processes: 0 and 1 unless a launcher has set both."""
    rank, processes = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    if rank.isdecimal() and processes.isdecimal() and int(rank) < int(processes):
        return int(rank), int(processes)
    return 0, 1


RANK, PROCESSES = place_in_group()
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
LONGEST_WAIT = timedelta(hours=2)                           # while the first process evaluates and saves


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes, if any. Raises ValueError if that fails."""
    if PROCESSES == 1:
        yield
        return
    backend = BACKENDS.get(device.type, device.type)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
    except (ValueError, RuntimeError) as error:             # backend unavailable, or port in use
        reason = f"cannot connect {PROCESSES} processes over {backend}: {first_line(error)}"
        raise ValueError(f"{reason}; start them with torchrun") from error
    try:
        yield
    except BaseException as error:
        while error:                                        # its traceback keeps the model alive
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        raise
    finally:
        gc.collect()                                        # a model that outlives the group can hang
        dist.destroy_process_group()


def is_left_alone(error: Exception) -> bool:
    """Return whether an error means that another process has died."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


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
