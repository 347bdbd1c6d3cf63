"""One pretraining on several processes: torchrun starts them, DDP averages their gradients (docs/several-gpus.md).

Every process runs the whole program. What is random is drawn for the whole batch and cut to the process's share, so
the numbers are those of one process. Process 0 leads: it alone writes, evaluates and speaks. How the others help it to
probe is in `mae.runtime.sharing`.
"""

import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from mae.errors import RunError, UserError
from mae.runtime.interruption import Interrupted

if TYPE_CHECKING:  # commands that are refused here need no torch
    import torch
    from torch import Tensor, nn

    from mae.config.tree import TrainConfig

TIMEOUT = timedelta(days=1)
"""How long processes wait for one another, which they do while process 0 evaluates or one decodes a data set. A process
that dies is noticed at once all the same: its connections close."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is, in all and on this machine; one by default."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def leads(self) -> bool:
        """True in the process that writes and speaks."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """Return which of a batch's images are this process's."""
        size = batch_size // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def check(self, train: "TrainConfig") -> None:
        """Raise `UserError` if the batch cannot be shared out evenly."""
        if train.batch_size % (self.count * train.micro_batches):
            raise UserError(
                f"train.batch_size={train.batch_size}: expected a multiple of {self.count * train.micro_batches}, "
                f"{self.count} processes times train.micro_batches={train.micro_batches}"
            )

    @contextmanager
    def joined(self, device: "torch.device") -> Iterator[None]:
        """Connect the processes within the block, over NCCL on GPUs and gloo elsewhere; all enter it, all leave it.

        A block within another uses its connections.
        """
        if self.count == 1:
            yield
            return
        import torch
        from torch import distributed

        if distributed.is_initialized():
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # On GPUs too, what the processes agree on goes over gloo: it waits for no kernel.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        try:
            yield
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the others may still need what is under way
        except Interrupted:
            with self.failures_told():
                self.greatest(0)  # nobody leaves before process 0 has saved: torchrun ends the rest when one is gone
            raise
        finally:
            distributed.destroy_process_group()

    @contextmanager
    def failures_told(self) -> Iterator[None]:
        """Turn the error of an exchange with a process that is gone into a `RunError`, empty but in process 0."""
        try:
            yield
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            reason = "another process of this command has failed or was killed; the same command continues"
            raise RunError(reason if self.leads else "") from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do what may fail in one process alone: all raise what the first of them did, which process 0 tells."""
        failure: Exception | None = None
        try:
            yield
        except (UserError, RunError) as error:
            failure = error
        for rank, (host, found) in enumerate(self.gather((platform.node(), failure))):
            if found is not None:
                where = f"process {rank} on {host}: " if rank else ""
                raise type(found)(f"{where}{found}" if self.leads else "") from failure

    def in_turns(self, work: Callable[[], Value]) -> Value:
        """Return what `work` does, first in one process of each machine, which fills caches, then in the others."""
        done: list[Value] = []
        for turn in (True, False) if self.count > 1 else (True,):
            with self.together():
                if (self.local_rank == 0) == turn:
                    done.append(work())
        return done[0]

    def same(self, value: str, name: str) -> str:
        """Return `value`; `UserError` if another process has another one: it sees other files."""
        values = self.gather(value)
        with self.together():
            if len(set(values)) > 1:
                raise UserError(f"the {name} differs between processes: {', '.join(values)}; give all the same files")
        return value

    def greatest(self, value: int) -> int:
        """Return the greatest `value` of all processes."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        shared = torch.tensor(value)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)

    def mean(self, value: "Tensor") -> "Tensor":
        """Return the mean over all processes, on the same device; does not wait for a GPU."""
        if self.count == 1:
            return value
        from torch import distributed

        distributed.all_reduce(value)
        return value / self.count

    def gather(self, value: Value) -> list[Value]:
        """Return what each process gives, by rank."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values = [value] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Value) -> Value:
        """Return what process 0 gives; tensors in dicts and lists, on the CPU, take no memory but their own.

        First goes the value without the tensors' data, on the device "meta", then each tensor straight into its place:
        pickled together, the state of a training would be in memory four times.
        """
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        from mae.runtime.nested import each_tensor

        box = [each_tensor(value, lambda tensor: tensor.to("meta"))]
        distributed.broadcast_object_list(box, src=0)

        def exchanged(tensor: "Tensor") -> "Tensor":
            data = tensor.contiguous() if self.leads else torch.empty(tensor.shape, dtype=tensor.dtype)
            distributed.broadcast(data, src=0)
            return data

        found: Value = each_tensor(value if self.leads else box[0], exchanged)
        return found

    def parallel(self, module: "nn.Module", device: "torch.device") -> "nn.Module":
        """Return a module whose gradients are the means over all processes; weights and buffers are process 0's."""
        if self.count == 1:
            return module
        from torch import distributed
        from torch.nn.parallel import DistributedDataParallel

        for buffer in module.buffers():  # fitted on another machine they may differ; all change them alike then
            distributed.broadcast(buffer, src=0)
        # A dimension of one channel has any stride; for DDP that is a mismatch.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        renamed = "forward_sync_buffers" in signature(DistributedDataParallel).parameters  # in torch 2.15
        unchanging: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, devices, gradient_as_bucket_view=True, **unchanging)

    def exchanging(self, module: Any, now: bool) -> AbstractContextManager[None]:
        """Let backward passes of what `parallel` returned average the gradients, or only add them up here."""
        return nullcontext() if now or self.count == 1 else module.no_sync()


ALONE = Processes()


def launched() -> Processes:
    """Return the processes that torchrun started this one among; one if it did not."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = [os.environ.get(name) for name in names]
    return Processes(*(int(value) for value in given if value)) if all(given) else ALONE


def _is_lost_connection(error: RuntimeError) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)
