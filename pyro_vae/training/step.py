"""The steps of one run: the pair made ready for them, and what looks at each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import ranks
from ..data.arguments import Arguments, Data, part_of
from ..infer import SVI
from ..infer.batchnorm import check_single, taking_statistics
from ..infer.engine.graph import Graph
from ..infer.engine.optimizers import fused
from ..infer.engine.svi import Engine, running
from ..infer.engine.trainable import Waiting, named_parameters
from ..programs.modes import training
from ..programs.placing import seen_values
from .annealing import Annealing
from .feeds import Loaded, Resident
from .guard import Guard
from .history import History
from .moments import convert
from .pair import TrainedPair
from .parallel import Parallel, synchronised
from .plan import Plan
from .recomputing import recomputing
from .state import TrainState

# Recording takes about as long as it saves in so many steps
_STEPS_BEFORE_A_GRAPH = 25


class Step:
    """What takes the steps of one run.

    At the latent sites ``points`` the guide is a point mass, and what it trains is no bound.
    The pair was tried with ``first``, as many data as a step has; ``replays`` tells whether it is
    recorded, and its tensors replayed. Records stay from run to run while the same programs are
    asked for in the same way; ``validating`` has those of validation.
    """

    def __init__(self, trainer: TrainedPair, plan: Plan) -> None:
        objective, feed = trainer.objective, plan.feed
        model, guide = trainer.model, trainer.guide
        self.objective, self.state, self.modules = objective, trainer.state, trainer.modules()
        self.device = feed.device
        parts = plan.accumulate
        self.first = x, y = first(feed, None if parts == 1 else _rows(feed, parts))
        summary = objective.elbo.examine(model, guide, x, y)
        self.points = tuple(summary.point_masses)
        if summary.outside and feed.count is None:
            raise ValueError(
                f"site {summary.outside[0]!r}: all data share it, and it counts once among them, "
                "but this DataLoader does not tell how many they are: give its data set a __len__"
            )
        self.annealing, before = Annealing(objective.beta), trainer.steps
        self.annealing.check(tuple(summary.latents), summary.guide_order)
        self.annealing.start(x.device, None if before is None else before.annealing)
        self.annealing.set(self.state.step, len(feed))
        estimator = objective.elbo
        graph = len(self.modules) == 2 and estimator.recordable
        engine: Engine = objective.engine or ("graph" if graph else "eager")
        self.replays = engine != "eager" and estimator.recordable
        programs = *map(id, (model, guide, estimator)), *self.annealing.identity()
        threads, announce = torch.get_num_threads(), tqdm.write if plan.progress else None
        self._asked = programs, engine, objective.precision, threads, ranks.size()
        self.validating: Graph | None = None
        if ranks.size() > 1:
            estimator = self.running = Parallel(estimator)
            self._pair = self.annealing.scale(model), self.annealing.scale(guide)
        elif before is not None and before._asked == self._asked:
            # With their records
            self.running, self.validating = before.running, before.validating
            self._pair = before._pair
            if isinstance(self.running, Graph):
                self.running.begin_run()
                if engine == "compile":
                    self.running.compile.announce = announce
        else:
            after = _STEPS_BEFORE_A_GRAPH
            self.running = running(estimator, engine, after=after, announce=announce)
            self._pair = self.annealing.scale(model), self.annealing.scale(guide)
        self.svi = SVI(
            *self._pair,
            self._optimizer,
            estimator,
            clip_norm=objective.clip_norm,
            engine=self.running,
            accumulate=parts,
        )
        self.svi.waiting, self.svi.stored = Waiting(len(feed)), self.state.stored
        self.svi.prepare(x, y=y)
        if isinstance(self.running, Parallel):
            self.running.check(self.state.stored)
        if self.state.swapped:
            # Also what another guide trained, and this one leaves as it is
            self.svi.waiting.add(named_parameters(model=model, guide=guide))
        if parts != 1:
            run = functools.partial(objective.elbo, model, guide, x, y)
            names = taking_statistics(run, x.device, model=model, guide=guide)
            _tell_statistics(() if ranks.rank() else names, parts)
        if summed := getattr(estimator, "summed", ()):
            _tell_summed(summed, trainer.history)

    def begin_epoch(self, tolerated: int) -> Guard:
        """Look at the records anew, and have the steps guarded; so many may be left out."""
        if isinstance(self.running, Graph):
            self.running.begin_epoch(self.state.step)
        return Guard(self.svi, self.modules, self.state.step, self.device, tolerated)

    def release(self) -> None:
        """Let go of what the processes of the run share."""
        if isinstance(self.running, Parallel):
            self.running.release()

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = fused(self.objective.optimizer, lr=self.objective.lr)(parameters)
        for parameter in parameters:
            if (moments := self.state.moments.get(parameter)) is not None:
                convert(moments, parameter)
                optimizer.state[parameter] = moments
        return optimizer


def _tell_summed(sites: Sequence[str], history: History) -> None:
    """Say what a history has of a bound without terms, unless it had so before."""
    if not history or history[-1]["kl"]:
        tqdm.write(
            f"sites {sites} are summed out, so that the bound has no terms per site: elbo, "
            "reconstruction and objective of the history are minus the loss per datum, with beta "
            "and all scales, and kl is empty"
        )


def _tell_statistics(names: Sequence[str], parts: int) -> None:
    """Say which modules see less than a batch where it is taken in parts."""
    if names:
        more = f" and {len(names) - 1} more" if names[1:] else ""
        tqdm.write(
            f"accumulate: {names[0]}{more} take statistics of a batch, here of each of its "
            f"{parts} parts, so that steps are not those of whole batches"
        )


@contextlib.contextmanager
def in_training(model: Callable, guide: Callable, state: TrainState, plan: Plan) -> Iterator[None]:
    """Modules in training mode, alike in all processes."""
    feed, parts = plan.feed, plan.accumulate
    with contextlib.ExitStack() as stack:
        stack.enter_context(synchronised(model, guide))
        if plan.recompute:
            stack.enter_context(recomputing(model, guide))
        for module in (p for p in (model, guide) if isinstance(p, nn.Module)):
            stack.enter_context(training(module))
        # After the guide, which may hold conditionals of the model
        stack.enter_context(state.freezing.holding(model, guide, functools.partial(first, feed)))
        if feed.last is not None and feed.last < 2 * parts and ranks.size() == 1:
            x, y = first(feed, 1)
            sizes = {"count": feed.count, "batch_size": feed.batch_size, "last": feed.last}
            check_single(model, guide, x, y, **sizes, parts=parts)
        yield


def _rows(feed: Resident | Loaded, parts: int) -> int:
    """Data in the largest part of a batch."""
    return -(-len(feed.data[: feed.batch_size]) // parts)


def first(feed: Resident | Loaded, n: int | None = None) -> tuple[Data, Tensor | None]:
    """The first data, with which a pair is tried: n of them, or as many as a batch has."""
    data = feed.data[: n or feed.batch_size]
    x, y = seen_values(data), data.y
    if len(data) < len(feed.data):
        # A view would keep all of the data
        x, y = _copied(x), _copied(y)
    return part_of(x, feed.count), y


def _copied(data: Data | None) -> Data | None:
    if isinstance(data, Arguments):
        return data.each(torch.clone)
    return None if data is None else data.clone()
