"""The training loop."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import Dataset, DataSplits
from ..ground.classes import Given
from ..ground.recorded import Recorded
from ..ground.streams import RandomStream
from ..ground.turns import turn
from ..infer.engine.svi import Engine
from ..infer.objectives.elbo import Estimator
from ..programs.program import Guide, Model
from ..schedules import Schedule
from . import checkpoint
from .guard import Skip
from .loop import Loop
from .objective import Objective, check_lr
from .pair import G, M, TrainedPair
from .plan import Plan
from .precision import Precision, PrecisionName, as_precision
from .state import TrainState
from .step import Step, in_training

H = TypeVar("H", bound=Callable[..., Any])


class Trainer(Recorded, TrainedPair[M, G]):
    """Train a model/guide pair by stochastic variational inference.

    Each step ascends E_q[log p(x|z)] - sum_i beta_i KL_i, in nats per datum, averaged over a
    minibatch, with the estimator of ``pyro.infer.Trace_ELBO``.

    With the same seed, initial weights, data, machine and number of threads, two runs have the
    same history bit for bit on the CPU (apart from ``seconds``), under the engines "eager" and
    "graph" alike. "compile", other numbers of threads and other machines round sums in another
    order, so that a run departs from the first in its last digits and then step by step; on a
    GPU some sums have no fixed order at all.

    Threads may train, evaluate and sample at once: one at a time runs programs, ``fit`` lets
    others go first between two steps, and the results are those of one thread after the other,
    random numbers included (``ground.turns.Turn`` says what that needs of programs run by Pyro
    alone; a thread that draws from torch's generator by itself draws from that of a seeded run).

    Args:
        model: generative program: an ``nn.Module``, a method of one, such as ``vae.model``, a
            ``functools.partial`` or a handler around these, or a function.
        guide: inference program; it may be another method of the same module.
        beta: weight of the KL: a number >= 0, a schedule, a 0-d tensor that you may fill in
            place, or a mapping from site to one of these.
        lr: learning rate.
        optimizer: a class of ``torch.optim``, or any callable ``optimizer(parameters, lr=...)``.
        elbo: "trace" (sampled KL), "analytic" (closed-form KL, raises where that is wrong),
            "enumerate" (discrete latents summed out, see ``infer.TraceEnumELBO``), an estimator
            object such as ``infer.ImportanceWeightedELBO(10, "mean")``, or an objective of
            ``pyro.infer`` or your own subclass, such as ``pyro.infer.RenyiELBO()``: its own loss
            and gradient, summed over the data of a step as Pyro does, where the other ones
            average; the programs run eagerly, and the history is in nats per datum.
        clip_norm: clip the total gradient norm to this value, if given.
        engine: "eager", "graph" or "compile", see ``infer.SVI``; the graph, bit for bit equal to
            eager on the CPU, is recorded after some steps, in one call of ``fit`` or in several,
            stays while nothing that it depends on changes, and is compared with the programs
            again and again, see ``infer.Graph``; "compile" pays where steps are many. Default:
            "graph" for modules and their methods, "eager" for plain functions.
        precision: "float32"; "tf32", products of matrices on a GPU's TF32 units; "bf16", networks
            in bfloat16, with parameters, densities, KL terms and codebooks in float32.
        seed: seed of this trainer's own random stream (data order, binarisation, latents);
            None draws from torch's global stream.
        device: move model, guide and data there; default: leave the pair where it is.
        plate: name of the plate over the data, where several of a program could be it.

    Attributes:
        history: list of plain dicts, one per epoch; ``history.plot()``.
        step: optimizer steps taken so far.
        swapped: whether the guide was swapped after the last epoch.
        stopping: whether the present run, or else the last one, was told to ``stop``.
        going_on: folder of the interrupted run that the next ``fit`` finishes, see ``resume``.

    Example:
        >>> from pyro_vae import guides, likelihoods, models
        >>> vae = models.VAE((6,), latents=2, likelihood=likelihoods.Gaussian())
        >>> trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
        >>> trainer = trainer.fit(torch.randn(64, 6), epochs=2, progress=False)
        >>> [row["epoch"] for row in trainer.history]
        [1, 2]
    """

    inside = (
        *("constant_beta", "going_on", "objective", "optimizer_class", "state", "steps"),
        *("told_collapsed",),
    )

    def __init__(
        self,
        model: M,
        guide: G,
        *,
        beta: float | Schedule | Tensor | Mapping[str, float | Schedule | Tensor] = 1.0,
        lr: float = 1e-3,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        elbo: Literal["trace", "analytic", "enumerate"] | Estimator | ELBO = "trace",
        clip_norm: float | None = None,
        engine: Engine | None = None,
        precision: PrecisionName | Precision = "float32",
        seed: int | None = None,
        device: torch.device | str | None = None,
        plate: str | None = None,
    ) -> None:
        check_lr(lr)
        objective = Objective(beta, lr, optimizer, elbo, clip_norm, engine, precision)
        super().__init__(model, guide, objective, TrainState(RandomStream(seed)), device, plate)
        self.seed = seed

    @property
    def stopping(self) -> bool:
        """Whether the present run ends after this epoch, or the last one was ended by ``stop``."""
        return self.state.run is not None and self.state.run.stopping

    @property
    def going_on(self) -> Path | None:
        """Folder of the interrupted run that the next ``fit`` finishes, see ``resume``."""
        return None if self.state.run is None else self.state.run.folder

    def fit(
        self,
        data: Dataset | DataSplits | Tensor | tuple[Tensor, Tensor | None] | DataLoader | Any,
        *,
        arguments: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        accumulate: int | None = None,
        recompute: bool = False,
        validation: Dataset | DataSplits | Tensor | DataLoader | Any | None = None,
        patience: int | None = None,
        callbacks: Sequence[Any] = (),
        threads: int | None = None,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        every: int | None = None,
        keep: int | None = None,
        on_nonfinite: Literal["raise", "skip"] | Skip = "raise",
        on_interrupt: Literal["raise", "return"] | None = None,
    ) -> Self:
        """Train for some more epochs.

        Everything is checked before the first step. Parts in evaluation mode under a module that
        trains stay in it; what becomes trainable within the run is trained from then on. Ctrl-C
        and SIGTERM end the run after the step that is running, write a checkpoint where there is
        a folder for it, and leave a usable trainer, with a row in the history for the part of the
        epoch that was trained; SIGTERM then ends the process with status 143, unless it has a
        handler. A second Ctrl-C waits for the end of the step alone, a third one for nothing.

        Within ``ranks.joined()``, in processes that ``torchrun`` started, all train as one: each
        takes its part of every minibatch, the programs run eagerly, and the steps are those of
        one process with the whole minibatch, up to random draws. They are given the same
        arguments. A ``DataLoader`` loads its part of each of its batches in each process; with a
        ``torch.utils.data.DistributedSampler`` its batches are taken as they are, so that a step
        has ``batch_size`` data times the processes, and ``set_epoch`` is called for you.
        Validation by a ``DataLoader`` is divided as well, batch by batch. Process 0 writes the
        checkpoints, for all; a signal to any process ends all after the same step.

        Args:
            data: a ``Dataset``, ``DataSplits`` (its training set), a tensor (n, *event_shape), a
                pair (x, y), or anything else that ``data.Dataset`` takes, which lie on the
                device; a data set of torch, of which each item is read once; or, for data that
                do not fit there or are new in each epoch, a ``torch.utils.data.DataLoader`` of
                batches x or (x, y), of which those of the first epoch are checked. To programs
                of your own a tuple or a mapping of tensors with n rows each, a data set of torch
                of such items, or ``data.Arguments``, is passed as their own arguments, by
                position or by name.
            arguments: constants among the programs' own arguments, by name.
            epochs: passes over the data. After ``resume``: of the interrupted call in all, by
                default as many as it was to have.
            batch_size: data per step; the last batch of an epoch may be shorter. Default: 128,
                all for programs of your own that take no fewer, or that of the interrupted call.
                A ``DataLoader`` has its own.
            accumulate: take each batch in so many parts, one after the other, and add up their
                gradients: the step is that of the batch, up to rounding and random draws, in the
                memory of a part. Clipping, schedules, history and checkpoints are by steps, as
                ever. What takes statistics of a batch, such as BatchNorm, takes those of a part,
                and is told; free bits and ``handlers.regularize`` are refused. Default: 1, or
                that of the interrupted call.
            recompute: keep no activations of networks, and compute them again in the backward
                pass: the same numbers, in less memory for deep hierarchies, by one more forward
                pass per step.
            validation: data whose bound is estimated after each epoch, in any of these forms
                (of ``DataSplits`` the validation set, or else the test set); under a graph it is
                recorded too, in a long run. The KL of latents that all data share is divided
                among these data.
            patience: keep the epoch with the best objective on the validation data, and end the
                run when for so many epochs none was better, with the state that it began with if
                none was better than this; epochs while beta moves do not count. The history row
                of the epoch that is kept says so; the optimizer's moments stay the last ones, as
                in Keras. Default: all epochs, and the last one's state.
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
                at most 10 such steps in an epoch, or ``training.Skip(limit)``. On a GPU "raise"
                looks every 100 steps, without waiting for the device in between, and "skip"
                waits for it at each step.
            on_interrupt: what Ctrl-C leads to once the run has ended in good order: "raise",
                ``KeyboardInterrupt``, so that no later cell of a notebook runs; or "return".
                Default: "raise" under IPython and Jupyter, elsewhere "return".

        Returns:
            This trainer.

        Warns:
            UserWarning: data of a scale that a Gaussian likelihood cannot be trained on.
            UntrainedWarning: parameters that got no gradient in a whole epoch, and tensors that
                the loss depends on but that no optimizer has.

        Raises:
            RuntimeError: called by a callback of this trainer's own ``fit``.
            ValueError: bad data, a model and guide that do not fit each other or the data, a
                folder with the run of another trainer, or after ``resume`` other data; in a run
                of several processes, other arguments in one of them, or too few data in a batch.
            TypeError: with ``checkpoint``, a callback, a part or a ``pyro.param`` site that no
                file can hold; in a run
                of several processes, a ``DataLoader`` over a stream, or a plain function.
            OSError: the folder cannot be written to, the disk is full, or another run is using
                the folder; checkpoints from before are as they were.
            FloatingPointError: a loss, gradient or parameter became NaN or infinite; the message
                names step, site and layer, with the ranges of all distributions.
            KeyboardInterrupt: after Ctrl-C, see ``on_interrupt``; the trainer is usable.
        """
        self._refuse_in_fit("fit", "ask that one for more epochs", do="call it")
        run = {"epochs": epochs, "batch_size": batch_size, "accumulate": accumulate}
        run |= {"arguments": arguments, "patience": patience, "threads": threads}
        files = {"checkpoint": checkpoint, "every": every, "keep": keep, "progress": progress}
        rest = {"on_nonfinite": on_nonfinite, "on_interrupt": on_interrupt, "recompute": recompute}
        plan = Plan(self, data, validation, callbacks, **run, **files, **rest)
        if plan.run.finished:
            self.state.run = None
            return self
        with turn, plan.held(self.state), self.state.stream.on(plan.feed.device):
            plan.receive_data(self.model, self.guide, first=self.step == 0)
            with self._in_run(plan) as step, plan.shown():
                interrupted = Loop(self, plan, step)()
        if interrupted and plan.reraises:
            raise KeyboardInterrupt
        return self

    @contextlib.contextmanager
    def _in_run(self, plan: Plan) -> Iterator[Step]:
        """Be in a run, with all that takes its steps."""
        pair = self.model, self.guide
        with in_training(*pair, self.state, plan):
            self._keep_optimizer()
            step = self.steps = Step(self, plan)
            self._tried = step.first
            with as_precision(self.precision).on(*pair, *step.first):
                self._fitting, self.state.run, plan.run.folder = True, plan.run, None
                try:
                    yield step
                finally:
                    self._fitting, plan.run.position = False, None
                    step.release()

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        *,
        model: Callable | None = None,
        guide: Callable | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        elbo: Estimator | ELBO | None = None,
        device: torch.device | str | None = None,
        classes: Given | None = None,
    ) -> Trainer[Model, Guide]:
        """The trainer of an interrupted run, whose next ``fit`` goes on where it stopped.

        A run may have been killed, interrupted by Ctrl-C or SIGTERM, or out of disk space. With
        the same data, validation data and callbacks, ``fit`` finishes the call that was
        interrupted, also in the middle of an epoch; epochs, batch size and folder need not be
        given again. On the same machine, with as many threads, everything is then as if the run
        had not been interrupted, bit for bit, except ``seconds`` in the history: parameters,
        buffers, optimizer, schedules, random numbers, data order and the callbacks' states.
        Several processes go on in the same number, all of which read the folder; for more than
        two, sums over them may be rounded in another order once they go on. With
        ``seed=None`` torch's global stream goes on where that of the run was. Of a call that
        was finished nothing is left to do, unless ``fit`` is given more epochs; after
        ``swap_guide`` a new call begins. ``pyro.param`` sites are put into Pyro's store, in place
        of what it has under their names; clear the store before, not afterwards. Two things are
        the caller's: a 0-d tensor given as beta has become a number (assign ``beta`` again to fill
        it in place), and modules of guides that were swapped out are not in the file.
        ``engine="compile"`` rounds otherwise once it
        is compiled, at another step after ``resume``.

        On the command line ``pyro-vae train --checkpoint 500 --out runs/mine ...`` writes
        checkpoints, and ``pyro-vae train --resume runs/mine`` goes on.

        Args:
            folder: what ``fit`` got as ``checkpoint``.
            model: your own model, where the file holds tensors only; see ``load``. Methods of
                one module are given one by one, ``model=vae.model, guide=vae.guide``; a plain
                function is given again.
            guide: your own guide, likewise.
            optimizer: the optimizer, where the file could not hold it.
            elbo: the objective, likewise.
            device: where to go on; default: the CPU.
            classes: your own classes that the file names, see ``load``.

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
            ...     _ = trainer.fit(
            ...         x, epochs=2, batch_size=8, progress=False, checkpoint=folder, every=5
            ...     )
            ...     again = Trainer.resume(folder).fit(x, epochs=3, progress=False)
            >>> [row["epoch"] for row in again.history]
            [1, 2, 3]
        """
        given = {"model": model, "guide": guide, "optimizer": optimizer, "elbo": elbo}
        return checkpoint.resume(cls, folder, **given, device=device, classes=classes)

    def stop(self) -> None:
        """End the present run after this epoch; for callbacks."""
        if self._fitting:
            self.state.run.stopping = True

    def swap_guide(self, guide: H, *, freeze_model: bool = False) -> Trainer[M, H]:
        """Continue with another guide; the model keeps its weights and its optimizer state.

        A guide that comes back finds its own optimizer state again.

        Args:
            guide: inference program for the same model.
            freeze_model: train the guide alone until the next swap: the model's parameters get
                ``requires_grad=False``, those that a guide borrows among them, and ``fit`` runs
                the model in evaluation mode, so that no buffer changes. Where a guide is of the
                model's own module, these are the parameters and the parts that the model's run
                uses. The next swap without it thaws exactly these parameters; what you froze
                yourself stays frozen.

        Returns:
            This trainer.

        Raises:
            TypeError: ``freeze_model`` for a plain function, a guide that is none.
            ValueError: a guide that does not fit the model, or uses another one's modules;
                ``freeze_model`` for a module that has a guide as well, before any ``fit``. The
                guide from before then stays.
            RuntimeError: called by a callback within ``fit``.
        """
        self._swap(guide, freeze_model=freeze_model)
        self.state.run, self.state.swapped = None, bool(self.history)
        return cast(Trainer[M, H], self)

    def save(self, path: str | Path, *, arguments: bool = True) -> None:
        """Write model, guide, optimizer, history and random state to one file; see ``save``.

        Of plain functions that is what they have in Pyro's store.
        """
        checkpoint.write(path, self, arguments=arguments)

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
