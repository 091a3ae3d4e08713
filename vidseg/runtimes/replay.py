"""Replay: the launches of a function recorded once, as a CUDA graph, and repeated: on small tensors they cost most."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_WARM = 3
"""Calls before the recording: libraries choose their kernels and take their memory in the first ones."""


class Replay:
    """Calls ``function`` on tensors of always the same shapes; on a CUDA device by replaying what it launched.

    What it returns is good until the next call, and lies in the order of the current stream.

    Args:
        function: Tensors in, tensors out; decides nothing by what is in them, and keeps none.
        examples: Tensors as it will get them.

    Raises:
        RuntimeError: Of PyTorch: the function fails, or there is no memory.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *examples: Tensor) -> None:
        self._function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, ...] = ()
        if examples[0].is_cuda:
            with torch.cuda.device(examples[0].device), torch.inference_mode():
                self._record([example.clone() for example in examples])

    @property
    def recorded(self) -> bool:
        """Whether calls are replays."""
        return self._graph is not None

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns for ``tensors``, which stay as they are."""
        if self._graph is None:
            return self._function(*tensors)
        for held, tensor in zip(self._inputs, tensors, strict=True):
            held.copy_(tensor)
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: list[Tensor]) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(_WARM):
                self._function(*inputs)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads go on with allocations of theirs meanwhile.
                with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                    outputs = self._function(*inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.info("the launches are no graph: %s", error)
                return
        self._graph, self._inputs, self._outputs = graph, inputs, outputs
