"""The processes of a run: who they are, how the network is spread over them, and what they tell each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# DDP imports this module, whose functions keep the group of that moment as a default: imported before there is a group,
# they do not keep ours, with its threads, until the interpreter is gone.
import torch.distributed.nn.functional  # noqa: F401
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..errors import InputError, needed
from .config import Parallel
from .network import Network


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def widest(device: torch.device) -> torch.dtype:
    """The type in which sums of many numbers are kept there: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Team:
    """One process among `size`; started by hand, by `accelerate launch` or by `torchrun`."""

    def __init__(self, parallel: Parallel) -> None:
        with needed("Training needs accelerate", "accelerate>=1.6"):
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
        handlers = [
            InitProcessGroupKwargs(timeout=timedelta(seconds=parallel.timeout)),
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
        ]
        # The loop sets autocast itself: with one process or many, the same operations run in the same types.
        # Without cpu, accelerate takes each of several processes on a machine without accelerators for the only one.
        cpu = parallel.device == "cpu" or not torch.accelerator.is_available()
        try:
            self.accelerator = Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers)
        except dist.DistError as error:
            raise InputError(
                f"the processes of this run did not all come together within parallel.timeout = {parallel.timeout:g} "
                f"seconds ({_first_line(error)}). Look for the message of one that failed before, and start all again."
            ) from error
        self.parallel = parallel
        self.rank, self.size = self.accelerator.process_index, self.accelerator.num_processes
        launched = self.accelerator.distributed_type.value
        if launched in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
            raise InputError(
                f"the launcher asks for {launched}, but the config decides how weights are spread. Launch without it, "
                "and choose parallel.mode: ddp, zero2, fsdp2 or deepspeed."
            )
        device = self.accelerator.device
        # Under several processes accelerate says cpu:0, which torch takes for another place than cpu.
        self.device = torch.device("cpu") if device.type == "cpu" else device
        self.sharded = self.size > 1 and parallel.mode in ("zero2", "fsdp2")
        self.deepspeed = self.size > 1 and parallel.mode == "deepspeed"

    @property
    def first(self) -> bool:
        """Whether this process writes what all have in common."""
        return self.rank == 0

    def autocast(self) -> Any:
        """The computing type of forward passes."""
        if self.parallel.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.parallel.dtype))

    def spread(self, network: Network) -> nn.Module:
        """The module to call: the network itself, its DDP wrapper, or the network with sharded parameters. DeepSpeed
        wraps it later, together with its optimizer."""
        if self.size == 1 or self.deepspeed:
            return network
        if not self.sharded:
            return _arranged(self.accelerator.prepare_model(network))
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        # Keeping the gathered weights until the backward pass is ZeRO-2: gradients and optimizer are sharded.
        options = {"mesh": mesh, "reshard_after_forward": self.parallel.mode == "fsdp2"}
        if self.parallel.dtype != "float32":
            # Weights travel in the type that autocast gives them anyway. Noise levels and latents stay as they are.
            options["mp_policy"] = MixedPrecisionPolicy(
                param_dtype=getattr(torch, self.parallel.dtype), reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        for block in (*network.mmdit.double_blocks, *network.mmdit.single_blocks):
            fully_shard(block, **options)
        module = fully_shard(network, **options)
        with torch.no_grad():
            module([], [], [])  # else a preview before the first step would make each block a root of its own
        self.shard_again(module)
        return module

    @contextmanager
    def accumulating(self, module: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the last backward pass of a step only; sharded ones in each, as every process
        would keep those of all weights until then."""
        if self.deepspeed:
            module.set_gradient_accumulation_boundary(last)
        with nullcontext() if last or self.sharded or self.deepspeed else self.accelerator.no_sync(module):
            yield

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        """The gradients of `loss`, which `module` was called for."""
        if self.deepspeed:
            module.backward(loss)
        else:
            loss.backward()

    @contextmanager
    def gathered(self, module: nn.Module) -> Iterator[None]:
        """Whole parameters within the block, for sampling outside the wrapped forward."""
        for part in _shards(module):
            part.unshard()
        try:
            yield
        finally:
            self.shard_again(module)

    def shard_again(self, module: nn.Module) -> None:
        """Drop the whole parameters that forward passes without a backward pass leave behind: the next one would take
        them for the weights, whatever has become of those meanwhile."""
        for part in _shards(module):
            part.reshard()

    def all_values(self, values: Tensor) -> Tensor:
        """[size, n] from every process's [n]."""
        return self.accelerator.gather(values[None].to(self.device))

    def all_objects(self, value: Any) -> list[Any]:
        """Every process's value, in order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes' shards; what is replicated counts once."""
        if self.sharded:
            dist.all_reduce(value)
        return value

    def agree(self, error: Exception | None) -> None:
        """Raise on every process when one of them failed, with its reason."""
        own = None if error is None else str(error) or type(error).__name__
        reasons = [reason for reason in self.all_objects(own) if reason]
        if error is not None:
            raise error
        if reasons:
            raise InputError(f"another process of this run failed: {reasons[0]}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block in which processes exchange nothing: when one fails in it, all of them do, with its reason."""
        error: Exception | None = None
        try:
            yield
        except Exception as problem:
            error = problem
        self.agree(error)

    def whole(self, parameter: Tensor, part: Tensor, owner: int | None = None) -> Tensor:
        """The full tensor of which `part` is this process's share, laid out like `parameter`; on every process.

        `owner`: the one process that has a replicated tensor (`part` is ignored elsewhere), None when all have it.
        """
        if isinstance(parameter, DTensor):
            shape, stride = parameter.shape, parameter.stride()
            spread = DTensor.from_local(part, parameter.device_mesh, parameter.placements, shape=shape, stride=stride)
            return spread.full_tensor()
        if owner is not None and self.size > 1:
            value = part.clone() if self.rank == owner else torch.empty_like(parameter, dtype=torch.float32)
            dist.broadcast(value, owner)
            return value
        return part

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        """Leave the group together. A process that failed just goes: the others notice, and stop with InputError."""
        if kind is None and dist.is_initialized():
            try:
                dist.barrier()
            except RuntimeError as problem:
                error = problem
            else:
                dist.destroy_process_group()
        if self.size > 1 and _is_loss(error):
            raise InputError(
                f"process {self.rank} of {self.size}: another process of this run died or no longer answers "
                f"({_first_line(error)}). Look for its message, then start the same command again: it goes on from the "
                "last checkpoint."
            ) from error
        if kind is None and error is not None:
            raise error


def _shards(module: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def _arranged(module: nn.Module) -> nn.Module:
    """A DDP module that has its first backward pass behind it, one without samples.

    DDP arranges its buckets anew after that pass, by the order in which gradients came, and of three processes or more
    the arrangement decides the last bits of their sums. So a run that goes on must have the same one as a run that was
    never stopped. (`find_unused_parameters` would keep the first arrangement too, but costs time in each step and
    prints a warning.)
    """
    module([], [], [])
    sum(p.sum() for p in module.parameters() if p.requires_grad).backward()
    module.zero_grad(set_to_none=True)
    return module


def _is_loss(error: BaseException | None) -> bool:
    """Whether this is the failure of an exchange between processes, which means that another one is gone."""
    signs = "closed by peer", "gloo", "timed out", "connection reset", "broken pipe"
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )


def _first_line(error: BaseException | None) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
