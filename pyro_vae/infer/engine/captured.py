"""A recorded graph on a GPU as one launch: a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...ground.internals import version

_WARM_UPS = 3
Results = Sequence[Tensor]
# (function, device) -> what runs it again, and its results, which that overwrites
Capture = Callable[[Callable[[], Results], torch.device], tuple[Callable[[], None], Results]]


def cuda_graph(
    function: Callable[[], Results], device: torch.device
) -> tuple[Callable[[], None], Results]:
    """Capture what a function launches on a GPU, after some calls as it is.

    It returns what launches that again, and the results, whose memory every launch writes anew.
    """
    with torch.cuda.device(device):
        stream, present = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # libraries choose their kernels and take their memory
                function()
        present.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Others, such as a DataLoader's thread that pins memory, may go on meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = function()
    return graph.replay, results


class Captured:
    """A function of tensors that is launched as one CUDA graph.

    A launch reads and writes fixed memory: data are copied there first. Parameters, buffers and
    numbers such as beta are read where they lie, so that they may change in place; a number on
    the CPU, which a launch could not read, has a copy on the GPU. Where a parameter was moved,
    the function runs as it is.

    The function, ``run``, has no gradients. Its inputs are ``tensors``, which are fixed, ``data``,
    which differ at each call, and ``constants``, which are fixed. The first ``kept`` results are
    copied for the caller; the next call overwrites the others.
    """

    def __init__(
        self,
        run: Callable,
        tensors: Sequence[Tensor],
        data: Sequence[Tensor],
        constants: Sequence[Tensor],
        kept: int,
        capture: Capture = cuda_graph,
    ) -> None:
        device = (*data, *tensors)[0].device
        self._run, self._tensors, self._constants, self._kept = run, tensors, constants, kept
        self._data = [tensor.clone() for tensor in data]
        self._numbers = [c if c.device == device else c.to(device) for c in constants]
        self._versions = [*map(version, constants)]
        self._addresses = self._where()
        inputs = (*tensors, *self._data, *self._numbers)
        self._launch, self._results = capture(lambda: run(*inputs), device)

    def __call__(self, *inputs: Tensor) -> Results:
        """The results for all inputs: ``tensors``, data, ``constants``."""
        if self._where() != self._addresses:
            return self._run(*inputs)
        given = inputs[len(self._tensors) :]
        for held, tensor in zip(self._data, given, strict=False):
            held.copy_(tensor, non_blocking=True)
        for i, constant in enumerate(self._constants):
            if constant is not self._numbers[i] and version(constant) != self._versions[i]:
                self._numbers[i].copy_(constant, non_blocking=True)
                self._versions[i] = version(constant)
        self._launch()
        kept = [result.clone() for result in self._results[: self._kept]]
        return *kept, *self._results[self._kept :]

    def _where(self) -> list[int]:
        return [tensor.data_ptr() for tensor in (*self._tensors, *self._constants)]


_CAPTURES: dict[str, Capture] = {"cuda": cuda_graph}


def captured(
    run: Callable,
    tensors: Sequence[Tensor],
    data: Sequence[Tensor],
    constants: Sequence[Tensor],
    kept: int | None,
    capture: Capture | None,
    failed: Callable[[RuntimeError], object],
) -> Callable:
    """A function as ``Captured``, without a ``capture`` only where its device is a GPU.

    It stays as it is without ``kept``, and with operations that no CUDA graph can hold, of which
    ``failed`` is told.
    """
    capture = capture or _CAPTURES.get((*data, *tensors)[0].device.type)
    if capture is None or kept is None:
        return run
    try:
        return Captured(run, tensors, data, constants, kept, capture)
    except RuntimeError as error:
        failed(error)
        return run
