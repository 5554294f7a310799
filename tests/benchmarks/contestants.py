"""The contestants: a training step of a system, as stock Pyro, by hand, and by this library."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator

import pyro
import torch
from pyro.infer import Trace_ELBO
from systems import Pair, System, on
from torch import Tensor, nn

from pyro_vae import infer

STOCK, HAND_WRITTEN, ARITHMETIC = "stock Pyro SVI", "hand-written PyTorch", "arithmetic"
Step = Callable[[Tensor], Tensor]


def hand_written(
    system: System,
    device: str = "cpu",
    *,
    compile: Callable[[Step], Step] = lambda loss: loss,
    update: Callable[[Callable], Callable] = lambda step: step,
    captured: bool = False,
    lr: float = 1e-3,
) -> Step:
    """A plain PyTorch step with a fused Adam.

    Args:
        system: what is trained.
        device: where.
        compile: what to make of the loss, such as ``torch.compile``.
        update: what to make of the optimizer's step.
        captured: the whole step, forward, backward and optimizer, as one CUDA graph.
        lr: learning rate.
    """
    vae, guide = on(system.build(), device)
    loss_of = compile(system.hand_written(vae, guide))
    optimizer = torch.optim.Adam(
        [*vae.parameters(), *guide.parameters()], lr=lr, fused=True, capturable=captured
    )
    optimizer.step = update(optimizer.step)

    def step(x: Tensor) -> Tensor:
        loss = loss_of(x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return CUDAGraph(step, (vae, guide), optimizer) if captured else step


class CUDAGraph:
    """A training step that is recorded at its first call and replayed.

    Recording takes steps; afterwards weights, buffers, Adam's moments and random numbers are as
    before, so that the replayed steps are those of ``step``.
    """

    def __init__(
        self, step: Step, modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer
    ) -> None:
        self.step, self.modules, self.optimizer = step, modules, optimizer
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The loss before the step."""
        if self.graph is None:
            self._record(x)
        self.x.copy_(x)
        self.graph.replay()
        return self.loss

    def _record(self, x: Tensor) -> None:
        self.x, self.graph = x.clone(), torch.cuda.CUDAGraph()
        states = [copy.deepcopy(module.state_dict()) for module in self.modules]
        random = torch.cuda.get_rng_state(x.device)
        # Compilers, cuBLAS and Adam allocate at their first steps, outside of the graph
        side = torch.cuda.Stream(x.device)
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(self.x)
        torch.cuda.current_stream(x.device).wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.loss = self.step(self.x)
        for module, state in zip(self.modules, states, strict=True):
            module.load_state_dict(state)
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        torch.cuda.set_rng_state(random, x.device)


def arithmetic(system: System, device: str = "cpu", *, lr: float = 1e-3) -> Step:
    """The matrix products of linear layers and a fused Adam alone: no step takes much less."""
    vae, guide = on(system.build(), device)
    parameters = [*vae.parameters(), *guide.parameters()]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
    products: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            (x,) = inputs
            passed_on = torch.zeros_like(x) if x.requires_grad else None
            products.append((layer.weight, x.detach(), output.detach().clone(), passed_on))

    @torch.no_grad()
    def step(x: Tensor) -> Tensor:
        if not products:
            with nn.modules.module.register_module_forward_hook(record), torch.enable_grad():
                system.hand_written(vae, guide)(x)
        for weight, given, output, passed_on in products:
            torch.mm(given, weight.t(), out=output)
            torch.mm(output.t(), given, out=weight.grad)
            if passed_on is not None:
                torch.mm(output, weight, out=passed_on)
        optimizer.step()
        return products[-1][2]

    return step


def with_eager_noise(loss: Step) -> Step:
    """Compiled, but drawing torch's own random numbers, which is the faster way on a CPU."""
    return torch.compile(loss, options={"fallback_random": True})


def contestants(system: System, device: str = "cpu", *, compiled: bool = False) -> dict[str, Step]:
    """Name -> one training step, all from the same weights."""

    def pair() -> Pair:
        return on(system.build(), device)

    steps = {
        STOCK: pyro.infer.SVI(*pair(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step,
        HAND_WRITTEN: hand_written(system, device),
    }
    if device != "cpu":
        steps["hand-written, CUDA graph"] = hand_written(system, device, captured=True)
    if compiled:
        steps["hand-written, compiled"] = hand_written(system, device, compile=torch.compile)
        steps["hand-written, compiled, eager noise"] = hand_written(
            system, device, compile=with_eager_noise
        )
        steps["hand-written, compiled with its optimizer step"] = hand_written(
            system, device, compile=with_eager_noise, update=torch.compile
        )
        if device != "cpu":
            steps["hand-written, compiled, CUDA graph"] = hand_written(
                system, device, compile=torch.compile, captured=True
            )
    steps["pyro_vae, eager"] = infer.SVI(*pair()).step
    steps["pyro_vae, graph"] = infer.SVI(*pair(), engine="graph").step
    if compiled:
        steps["pyro_vae, compile"] = infer.SVI(*pair(), engine="compile").step
    return steps


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Double precision by default, and torch's own random numbers in all that is compiled.

    In single precision two correct steps part soon: Adam's first updates have the size of lr
    however small a gradient is, so that rounding changes weights, and the ladder's bound is
    heavy-tailed. A compiler's own random numbers part them at once.
    """
    from torch._inductor import config

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with config.patch(fallback_random=True):
            yield
    finally:
        torch.set_default_dtype(before)
        torch._dynamo.reset()


def check_equal(steps: dict[str, Step], x: Tensor, rounds: int = 3) -> None:
    """Raise unless all have the losses of stock Pyro in so many steps, within ``exact()``."""
    losses = {}
    for name, step in steps.items():
        torch.manual_seed(1)
        losses[name] = torch.tensor([float(step(x)) for _ in range(rounds)])
    for name, found in losses.items():
        torch.testing.assert_close(
            found, losses[STOCK], rtol=1e-7, atol=0, msg=lambda m, name=name: f"{name}: {m}"
        )
