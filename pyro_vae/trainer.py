"""The training loop."""

from __future__ import annotations

import contextlib
import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.weak import WeakIdKeyDictionary
from tqdm.auto import tqdm

from . import ranks, runs
from .annealing import Annealing
from .callbacks import check_callbacks
from .data import Dataset
from .distributed import Parallel, check_parallel, synchronised
from .feeds import Loaded, Resident, check_source, source
from .finite import Skip, limit_of
from .freezing import Freezing
from .history import History
from .infer import SVI, check_pair
from .infer.checks import check_guide
from .infer.compiled import AutoCompiled
from .infer.dataset import seen_values, usable_device
from .infer.elbo import Estimator, as_estimator
from .infer.optimizers import check_optimizer, fused, recordable
from .infer.svi import Engine, running
from .loop import Loop
from .machine import check_threads, using_threads
from .precision import Precision, PrecisionName, as_precision
from .programs import training
from .recorded import Recorded
from .schedules import Schedule
from .signals import held_back
from .streams import RandomStream

# Recording takes about as long as it saves in so many steps
_STEPS_BEFORE_A_GRAPH = 100


class Trainer(Recorded):
    """Train a model/guide pair by stochastic variational inference.

    Each step ascends E_q[log p(x|z)] - sum_i beta_i KL_i, in nats per datum, averaged over a
    minibatch, with the estimator of ``pyro.infer.Trace_ELBO``.

    With the same seed, initial weights, data, machine and number of threads, two runs have the
    same history bit for bit on the CPU (apart from ``seconds``), under the engines "eager" and
    "graph" alike. "compile" draws other random numbers of the same distribution; with other
    numbers of threads, or on another machine, sums are rounded in another order, so that a run
    departs from the first in its last digits and then step by step; on a GPU some sums have no
    fixed order at all.

    Args:
        model: generative program.
        guide: inference program.
        beta: weight of the KL: a number >= 0, a schedule, a 0-d tensor that you may fill in
            place, or a mapping from site to one of these.
        lr: learning rate.
        optimizer: a class of ``torch.optim``, or any callable ``optimizer(parameters, lr=...)``.
        elbo: "trace" (sampled KL), "analytic" (closed-form KL, raises where that is wrong), or an
            estimator object such as ``infer.ImportanceWeightedELBO(10, "mean")``.
        clip_norm: clip the total gradient norm to this value, if given.
        engine: "eager", "graph" or "compile", see ``infer.SVI``; the graph, bit for bit equal to
            eager, is recorded once a run turns out to be long. "auto" compiles it where the rest
            of the run is long enough to pay, by an estimate from its steps so far. Default:
            "graph" for modules, "eager" for plain functions.
        precision: "float32"; "tf32", products of matrices on a GPU's TF32 units; "bf16", networks
            in bfloat16, with parameters, densities, KL terms and codebooks in float32.
        seed: seed of this trainer's own random stream (data order, binarisation, latents);
            None draws from torch's global stream.
        device: move model, guide and data there; default: leave the pair where it is.

    Attributes:
        history: list of plain dicts, one per epoch; ``history.plot()``.
        step: optimizer steps taken so far.
        swapped: whether the guide was swapped after the last epoch.
        stopping: whether the present run ends after this epoch, see ``stop``.
        going_on: folder of the interrupted run that the next ``fit`` finishes, see ``resume``.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
        >>> trainer = trainer.fit(torch.randn(64, 6), epochs=2, progress=False)
        >>> [row["epoch"] for row in trainer.history]
        [1, 2]
    """

    def __init__(
        self,
        model: Callable,
        guide: Callable,
        *,
        beta: float | Schedule | Tensor | Mapping[str, float | Schedule | Tensor] = 1.0,
        lr: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        elbo: Literal["trace", "analytic"] | Estimator = "trace",
        clip_norm: float | None = None,
        engine: Engine | Literal["auto"] | None = None,
        precision: PrecisionName | Precision = "float32",
        seed: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm: expected a positive number or None, got {clip_norm}")
        check_optimizer(optimizer)
        check_guide(model, guide)
        self.model, self.guide = model, guide
        self.optimizer_class, self.clip_norm, self.seed = optimizer, clip_norm, seed
        self.engine, self.step, self._fitting = engine, 0, False
        as_precision(precision)
        self._last_step, self._announce = 0, None
        self.elbo, self.precision = elbo, precision
        self.device = None if device is None else usable_device(device)
        for module in self.modules():
            module.to(self.device)
        self.history = History()
        self._svi: SVI | None = None
        self.beta, self.lr = beta, lr
        self._moments: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._stream = RandomStream(seed)
        self.swapped = self.stopping = False
        self._freezing = Freezing()
        # Where the present run, or the one that a file was read from, is; for ``Loop`` alone
        self.progress: Mapping[str, Any] | None = None
        self.going_on: Path | None = None
        self.written: dict[Path, str] = {}

    @property
    def beta(self) -> Any:
        """The weight of the KL as it was given; may be assigned between calls of ``fit``."""
        return self._beta

    @beta.setter
    def beta(self, beta: float | Schedule | Tensor | Mapping) -> None:
        self._refuse_in_fit("beta", "use a schedule, or a 0-d tensor that you fill in place")
        annealing = Annealing(beta)
        if hasattr(self.model, "latents"):
            annealing.check(self.model.latents)
        self._beta = beta

    @property
    def elbo(self) -> Estimator:
        """The estimator; may be assigned between calls of ``fit``, like the argument ``elbo``.

        Model, guide and the optimizer's state stay, so that a run goes on with another bound,
        such as ``infer.ImportanceWeightedELBO(10, "mean")`` for fine-tuning.
        """
        return self._elbo

    @elbo.setter
    def elbo(self, elbo: Literal["trace", "analytic"] | Estimator) -> None:
        self._refuse_in_fit("elbo", "end the run with trainer.stop()")
        estimator = as_estimator(elbo)
        if self.step and estimator.reduction != (expected := self._elbo.reduction):
            raise ValueError(
                f"elbo: expected reduction={expected!r}, as in the steps so far, got "
                f"{estimator.reduction!r}, which the optimizer's state does not fit: pass "
                f"{type(estimator).__name__}(..., reduction={expected!r})"
            )
        self._elbo = estimator
        self._running = self._under_engine()

    def _refuse_in_fit(self, name: str, within: str) -> None:
        if self._fitting:
            raise RuntimeError(f"{name}: assign it between calls of fit; within one, {within}")

    @property
    def constant_beta(self) -> bool:
        """Whether beta is a number, or numbers per site, for good."""
        return Annealing(self.beta).constant

    @property
    def lr(self) -> float:
        """The learning rate as it is now; may be assigned at any time."""
        return self._lr if self.optimizer is None else self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, lr: float) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: expected a positive finite number, got {lr}")
        self._lr = lr
        for group in [] if self.optimizer is None else self.optimizer.param_groups:
            group["lr"] = lr

    @property
    def frozen(self) -> bool:
        """Whether the guide is trained alone, see ``swap_guide``."""
        return self._freezing.names is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The torch optimizer of the present pair; None before the first ``fit``."""
        return None if self._svi is None else self._svi.optimizer

    def modules(self) -> list[nn.Module]:
        """Model and guide, where they are modules."""
        return [p for p in (self.model, self.guide) if isinstance(p, nn.Module)]

    def parameters(self) -> list[nn.Parameter]:
        """All parameters of model and guide; those that both hold twice."""
        return [p for module in self.modules() for p in module.parameters()]

    def fit(
        self,
        data: Dataset | Tensor | tuple[Tensor, Tensor | None] | DataLoader,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation: Dataset | Tensor | tuple[Tensor, Tensor | None] | DataLoader | None = None,
        callbacks: Sequence[Any] = (),
        threads: int | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        every: int | None = None,
        keep: int | None = None,
        on_nonfinite: Literal["raise", "skip"] | Skip = "raise",
    ) -> Trainer:
        """Train for some more epochs.

        Everything is checked before the first step. Ctrl-C and SIGTERM end the run after the step
        that is running (a second Ctrl-C at once), write a checkpoint where there is a folder for
        it, and leave a usable trainer, with a row in the history for the part of the epoch that
        was trained; SIGTERM then ends the process with status 143, unless it has a handler.

        Within ``ranks.joined()``, in processes that ``torchrun`` started, all train as one: each
        takes its part of every minibatch, the programs run eagerly, and the steps are those of
        one process with the whole minibatch, up to random draws.

        Args:
            data: a ``Dataset``, a tensor (n, *event_shape), or a pair (x, y), which lie on the
                device; or, for data that do not fit there, a ``torch.utils.data.DataLoader`` of
                batches x or (x, y), of which the first is checked.
            epochs: passes over the data. After ``resume``: of the interrupted call in all, by
                default as many as it was to have.
            batch_size: data per step; the last batch of an epoch may be shorter. Default: 128,
                or that of the interrupted call. A ``DataLoader`` has its own.
            validation: data whose bound is estimated after each epoch, in any of these forms.
            callbacks: objects with the hooks of ``callbacks.Callback``.
            threads: threads of the CPU in this run; default: torch's present number. On a busy
                machine one is often the fastest.
            progress: show a progress bar.
            checkpoint: a folder, made where it is missing, to write checkpoints into: before the
                first step, every so many steps, where the run is interrupted, and at its end.
                Each is written whole or not at all, so that ``Trainer.resume`` goes on from the
                last one however the process ended. Default: none, or after ``resume`` its folder.
            every: steps between two checkpoints. Default: 1000.
            keep: how many checkpoints stay, the latest. Default: 3.
            on_nonfinite: what a loss, gradient or parameter that is NaN or infinite leads to:
                "raise", with model, guide and optimizer as in their last finite state; or "skip",
                at most 10 such steps in an epoch, or ``finite.Skip(limit)``. On a GPU "raise"
                looks every 100 steps, without waiting for the device in between, and "skip"
                waits for it at each step.

        Returns:
            This trainer.

        Raises:
            ValueError: bad data, a model and guide that do not fit each other or the data, a
                folder with the run of another trainer, or after ``resume`` other data.
            TypeError: with ``checkpoint``, a callback or a part that no file can hold.
            OSError: the folder cannot be written to, the disk is full, or another run is using
                the folder; checkpoints from before are as they were.
            FloatingPointError: a loss, gradient or parameter became NaN or infinite; the message
                names step, site and layer, with the ranges of all distributions.
        """
        going_on = None if self.going_on is None else self.progress
        if going_on is not None:
            epochs = going_on["epochs"] if epochs is None else epochs
            batch_size = going_on["batch_size"] if batch_size is None else batch_size
            checkpoint = self.going_on if checkpoint is None else checkpoint
            every = going_on["every"] if every is None else every
            keep = going_on["keep"] if keep is None else keep
        batch_size = 128 if batch_size is None else batch_size
        for name, value in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        check_callbacks(callbacks)
        check_threads(threads)
        tolerated = limit_of(on_nonfinite)
        folder = runs.folder(checkpoint, every=every, keep=keep)
        pair = self.model, self.guide
        data = source(data, "data", *pair, device=self.device)
        if validation is not None:
            validation = source(validation, "validation", *pair, device=self.device)
        if folder is not None:
            runs.check_sources(data, validation)
            folder.describe(Resident(data, batch_size), validation, callbacks)
            if going_on is not None:
                folder.check_same(going_on, epochs)
                if going_on["finished"] and epochs == going_on["epochs"]:
                    self.going_on = None
                    return self
        self.stopping = False
        self._announce = tqdm.write if progress else None
        with contextlib.ExitStack() as stack:
            # First, so that all else is in order when SIGTERM ends the process
            interruption = stack.enter_context(held_back())
            if folder is not None:
                stack.enter_context(folder.held(self))
            stack.enter_context(using_threads(threads))
            # A loader draws its order from this stream, where it has no generator of its own
            stack.enter_context(self._stream.on(data.device))
            check_source(data, "data", self.model)
            if validation is not None:
                with torch.random.fork_rng(devices=[]):
                    check_source(validation, "validation", self.model)
            feed = data if isinstance(data, Loaded) else Resident(data, batch_size)
            done = 0 if going_on is None else going_on["done"]
            self._last_step = self.step + (epochs - done) * len(feed)
            check_parallel(feed, *pair)
            ranks.diverge()
            stack.enter_context(synchronised(*pair))
            for module in self.modules():
                stack.enter_context(training(module))
            # After the guide, which may hold conditionals of the model
            stack.enter_context(self._freezing.holding(self.model))
            annealing, points = self._make_svi(feed.data, len(feed))
            x, y = _first(feed.data)
            stack.enter_context(as_precision(self.precision).on(*pair, x, y))
            bar = stack.enter_context(
                tqdm(
                    total=epochs * len(feed), unit="step", disable=not progress or ranks.rank() > 0
                )
            )
            stack.enter_context(self._in_fit())
            self.going_on = None
            loop = Loop(
                self,
                self._svi,
                annealing,
                feed,
                validation=validation,
                callbacks=callbacks,
                bar=bar,
                points=points,
                folder=folder,
                interruption=interruption,
                tolerated=tolerated,
            )
            loop.run(epochs, going_on)
        return self

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        model: Callable | None = None,
        guide: Callable | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        device: torch.device | str | None = None,
    ) -> Trainer:
        """The trainer of an interrupted run, whose next ``fit`` goes on where it stopped.

        With the same data, validation data and callbacks, ``fit`` finishes the call that was
        interrupted, also in the middle of an epoch; epochs, batch size and folder need not be
        given again. On the same machine, with as many threads, everything is then as if the run
        had not been interrupted, bit for bit, except ``seconds`` in the history: parameters,
        buffers, optimizer, schedules, random numbers, data order and the callbacks' states. With
        ``seed=None`` torch's global stream goes on where that of the run was. Of a call that
        was finished nothing is left to do, unless ``fit`` is given more epochs; after
        ``swap_guide`` a new call begins. Two things are the caller's: a 0-d tensor given as beta
        has become a number (assign ``beta`` again to fill it in place), and states of guides that
        were swapped out are not in the file. ``engine="compile"`` draws other random numbers
        once it is compiled, at another step after ``resume``.

        Args:
            folder: what ``fit`` got as ``checkpoint``.
            model: your own model, where the file holds tensors only; see ``load``.
            guide: your own guide, likewise.
            optimizer: the optimizer, where the file could not hold it.
            device: where to go on; default: the CPU.

        Returns:
            A trainer. Where the newest checkpoint is damaged, that of the one before, with a
            warning.

        Raises:
            FileNotFoundError: no checkpoints there.
            ValueError: none of them can be read.

        Example:
            >>> import tempfile
            >>> from pyro_vae import guides, likelihoods, models
            >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
            >>> x = torch.randn(64, 6)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
            ...     _ = trainer.fit(x, epochs=2, progress=False, checkpoint=folder)
            ...     again = Trainer.resume(folder).fit(x, epochs=3, progress=False)
            >>> [row["epoch"] for row in again.history]
            [1, 2, 3]
        """
        return runs.resume(folder, model=model, guide=guide, optimizer=optimizer, device=device)

    def stop(self) -> None:
        """End the present run after this epoch; for callbacks."""
        self.stopping = True

    def swap_guide(self, guide: Callable, *, freeze_model: bool = False) -> Trainer:
        """Continue with another guide; the model keeps its weights and its optimizer state.

        A guide that comes back finds its own optimizer state again.

        Args:
            guide: inference program for the same model.
            freeze_model: train the guide alone until the next swap: the model's parameters get
                ``requires_grad=False``, those that a guide borrows among them, and ``fit`` runs
                the model in evaluation mode, so that no buffer changes. The next swap without it
                thaws exactly these parameters; what you froze yourself stays frozen.

        Returns:
            This trainer.

        Raises:
            TypeError: ``freeze_model`` for a plain function.
            ValueError: a guide that was built for other latents.
        """
        check_guide(self.model, guide)
        if freeze_model:
            self._freezing.check(self.model)
        self._keep_moments()
        self._freezing.thaw(self.model)
        self.progress = self.going_on = None
        if freeze_model:
            self._freezing.freeze(self.model)
        self.guide, self._svi, self.swapped = guide, None, bool(self.history)
        for module in self.modules():
            module.to(self.device)
        return self

    def save(self, path: str | Path, *, arguments: bool = True) -> None:
        """Write model, guide, optimizer, history and random state to one file; see ``save``."""
        from .checkpoint import save

        save(self, path, arguments=arguments)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides model and guide: tensors, and plain data in "plain"."""
        self._keep_moments()
        return {
            "run": self.progress,
            "moments": [self._moments.get(p) for p in self.parameters()],
            "random": self._stream.states(),
            "plain": {
                "arguments": {
                    "beta": self.beta,
                    "lr": self.lr,
                    "optimizer": recordable(self.optimizer_class),
                    "elbo": self.elbo,
                    "clip_norm": self.clip_norm,
                    "engine": self.engine,
                    "precision": self.precision,
                    "seed": self.seed,
                },
                "history": list(self.history),
                "step": self.step,
                "swapped": self.swapped,
                "frozen": self._freezing.names,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        plain = state["plain"]
        self.history, self.step = History(plain["history"]), plain["step"]
        self.swapped = plain["swapped"]
        self._freezing = Freezing(plain.get("frozen"))
        self._stream.load(state["random"])
        self.progress = state.get("run")
        for parameter, moments in zip(self.parameters(), state["moments"], strict=True):
            if moments is not None:
                self._moments[parameter] = moments

    def _make_svi(self, data: Dataset, steps_per_epoch: int) -> tuple[Annealing, tuple[str, ...]]:
        x, y = _first(data)
        summary = check_pair(self.model, self.guide, x, y=y)
        self._keep_moments()
        # Made anew, because a mapping may have been changed in place since the last run
        annealing = Annealing(self.beta)
        annealing.check(tuple(summary.latents))
        annealing.start(x.device)
        annealing.set(self.step, steps_per_epoch)
        self._running = self._under_engine()
        estimator = self.elbo
        if ranks.size() > 1:
            estimator = self._running = Parallel(self.elbo)
        self._svi = SVI(
            annealing.scale(self.model),
            annealing.scale(self.guide),
            self._build_optimizer,
            estimator,
            clip_norm=self.clip_norm,
            engine=self._running,
        )
        self._svi.prepare(x, y=y)
        return annealing, tuple(summary.point_masses)

    @contextlib.contextmanager
    def _in_fit(self) -> Iterator[None]:
        self._fitting = True
        try:
            yield
        finally:
            self._fitting = False

    def _under_engine(self) -> Callable:
        engine = self.engine or ("graph" if len(self.modules()) == 2 else "eager")
        after = _STEPS_BEFORE_A_GRAPH
        if engine == "auto":
            return AutoCompiled(
                self.elbo,
                remaining=lambda: self._last_step - self.step,
                after=after,
                announce=self._announce,
            )
        return running(self.elbo, engine, after=after, announce=self._announce)

    def _build_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = fused(self.optimizer_class, lr=self.lr)(parameters)
        for parameter in parameters:
            if parameter in self._moments:
                optimizer.state[parameter] = self._moments[parameter]
        return optimizer

    def restore_optimizer(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Give the optimizer the options and parameters of an interrupted run; for ``Loop``."""
        runs.restore_groups(self.optimizer, groups, self.parameters(), self._moments.get)

    def _keep_moments(self) -> None:
        if self.optimizer is not None:
            self._lr = self.lr
            for parameter, state in self.optimizer.state.items():
                self._moments[parameter] = state

    def __repr__(self) -> str:
        """Model, guide and how far training went."""
        last = f", elbo {self.history[-1]['elbo']:.2f}" if self.history else ""
        return (
            f"Trainer after {len(self.history)} epochs, {self.step} steps{last}\n"
            f"{self.model!r}\n{self.guide!r}"
        )

    def _repr_html_(self) -> str:
        """The same for notebooks, and the last epochs."""
        last = self.history._repr_html_() if self.history else ""
        return f"<pre>{html.escape(repr(self))}</pre>{last}"


def _first(data: Dataset) -> tuple[Tensor, Tensor | None]:
    """The first data, with which a pair is tried."""
    return seen_values(data[:2]), None if data.y is None else data.y[:2]
