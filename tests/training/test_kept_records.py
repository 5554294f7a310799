"""Records stay from one call of fit to the next, as long as nothing they depend on has changed."""

import collections
import contextvars
import copy
import gc
import pickle
import signal
import types
import weakref

import numpy as np
import pytest
import torch
from fitting import HIERARCHY, Hook, pair, rows, values
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, load
from pyro_vae.infer.engine import compiled, graph
from pyro_vae.schedules import WarmUp

# Of one shape, and as large as 32 batches
A, B, C = torch.randn(3, 640, 6, generator=torch.Generator().manual_seed(2))
LADDER = {"latents": HIERARCHY, "guide": guides.Ladder, "norm": nn.BatchNorm1d}


@pytest.fixture
def recorded(monkeypatch):
    """The calls by which training is recorded."""
    calls, record = [], graph.recorded

    def counting(traced, *args):
        calls.append(type(traced).__name__)
        return record(traced, *args)

    monkeypatch.setattr(graph, "recorded", counting)
    return calls


def run(trainer, data, epochs=1, batch_size=20, **options):
    """A run of 32 steps, of which one is recorded where none was before."""
    return trainer.fit(data, epochs=epochs, batch_size=batch_size, progress=False, **options)


def found(trainer):
    state = [*values(trainer.model, trainer.guide).values(), *trainer.model.buffers()]
    return rows(trainer), [*map(torch.Tensor.tolist, state)]


def compared(recorded, made, times=1, between=lambda trainer, i: trainer, **options):
    """Three runs are those of eager steps, and of records made anew, to the last bit."""
    ends, anew = [], [] if times > 1 else ["anew"]
    for kind in ("kept", "eager", *anew):
        trainer = Trainer(*made(), **{"seed": 0, "lr": 1e-2, **options.get("trainer", {})})
        if kind == "eager":
            trainer.engine = "eager"
        recorded.clear()
        for i, data in enumerate((A, B, C)):
            trainer = run(trainer, data, **options.get("fit", {}))
            trainer = between(trainer, i)
            if kind == "anew":
                trainer = copy.deepcopy(trainer)
        assert len(recorded) == {"kept": times, "anew": 3, "eager": 0}[kind]
        ends.append(found(trainer))
    assert all(end == ends[0] for end in ends)


def ladder():
    return pair(**LADDER)


@pytest.mark.parametrize(
    ("made", "trainer", "fit"),
    [
        (pair, {}, {}),
        (ladder, {"beta": WarmUp(steps=50)}, {}),
        (pair, {"beta": 0.5}, {}),
        (ladder, {"beta": {"z1": 0.5, "z2": WarmUp(epochs=3)}}, {}),
        (pair, {"beta": torch.tensor(0.3)}, {}),
        (pair, {"optimizer": torch.optim.SGD, "clip_norm": 1.0}, {"accumulate": 2}),
        (ladder, {"elbo": "analytic"}, {"recompute": True}),
        (pair, {"elbo": infer.ImportanceWeightedELBO(3, "mean"), "beta": 0.5}, {}),
    ],
)
def test_three_runs_are_recorded_once(recorded, made, trainer, fit):
    compared(recorded, made, trainer=trainer, fit=fit)


def test_networks_in_half_precision_are_recorded_once(recorded):
    trainer = Trainer(*pair(), seed=0, precision="bf16")
    for data in (A, B, C):
        run(trainer, data)
    assert len(recorded) == 1


def test_short_runs_are_recorded_as_one_long_run_is(recorded):
    for beta in (1.0, WarmUp(steps=30)):
        recorded.clear()
        short, long = (Trainer(*ladder(), beta=beta, seed=0) for _ in range(2))
        counts = []
        for _ in range(6):
            run(short, A[:200])
            counts.append(len(recorded))
        run(long, A[:200], epochs=6)
        assert found(short) == found(long)
        # The first step of each run has Pyro's checks; 25 others of 9 each run as they are
        assert counts == [0, 0, 1, 1, 1, 1] and len(recorded) == 2


def same(trainer, i):
    """Nothing that a record depends on."""
    trainer.lr, trainer.clip_norm = (0.02, 1.0) if i else (0.005, 5.0)
    trainer.beta = (0.7, WarmUp(steps=100))[i % 2]
    state = copy.deepcopy(trainer.model.state_dict())
    trainer.model.load_state_dict({name: 0.9 * value for name, value in state.items()})
    return trainer


def last_layer(trainer):
    return [m for m in trainer.model.decoder.modules() if isinstance(m, nn.Linear)][-1]


def another_weight(trainer, i):
    if i == 0:
        last = last_layer(trainer)
        last.weight = nn.Parameter(torch.full_like(last.weight, 0.1))
    return trainer


def memory(trainer, i):
    if i == 0:
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.clone()
    return trainer


def weighed(trainer, i):
    trainer.beta = 0.5
    return trainer


def beta(trainer, i):
    trainer.beta = torch.tensor(0.5 + i)
    return trainer


def objective(trainer, i):
    trainer.elbo = "analytic" if i == 0 else "trace"
    return trainer


def frozen(trainer, i):
    if i == 0:
        trainer.model.decoder.requires_grad_(False)
    return trainer


def guide(trainer, i):
    if i == 0:
        torch.manual_seed(3)
        trainer.swap_guide(guides.BottomUp(trainer.model))
    return trainer


def copied(trainer, i):
    return copy.deepcopy(trainer) if i == 0 else trainer


def pickled(trainer, i):
    return pickle.loads(pickle.dumps(trainer)) if i == 0 else trainer


def test_what_no_record_depends_on_may_change(recorded):
    compared(recorded, pair, 1, same, trainer={"beta": 0.5})


@pytest.mark.parametrize(
    ("between", "times"),
    [
        *((another_weight, 2), (memory, 2), (weighed, 2), (beta, 3), (objective, 3), (frozen, 2)),
        *((guide, 2), (copied, 2), (pickled, 2)),
    ],
)
def test_what_a_record_depends_on_has_another_made(recorded, between, times):
    compared(recorded, pair, times, between)


def chained():
    return collections.ChainMap({"noise": 0.0})


def in_context():
    variable = contextvars.ContextVar("noise")
    variable.set(0.0)
    return variable


def many():
    return [types.SimpleNamespace(noise=0.0) for _ in range(6000)]


@pytest.mark.parametrize(
    ("held", "read", "write"),
    [
        (chained, lambda h: h["noise"], lambda h, v: h.update(noise=v)),
        (in_context, contextvars.ContextVar.get, contextvars.ContextVar.set),
        (many, lambda h: h[-1].noise, lambda h, v: setattr(h[-1], "noise", v)),
    ],
)
def test_what_cannot_be_looked_into_has_a_record_made_in_each_run(recorded, held, read, write):
    """Some data alone show what has changed, and the first step of a run has none of them."""

    def made():
        vae, guide = pair()
        holds = held()
        made.holds = holds
        return vae, handlers.corrupt(guide, lambda x: x + read(holds) * (x > 3.2))

    def change(trainer, i):
        write(made.holds, i + 1.0)
        return trainer

    assert 0 < (torch.cat([B, C]) > 3.2).sum() < 10
    compared(recorded, made, 3, change)


def test_a_loaded_trainer_records_anew(recorded, tmp_path):
    ends = []
    for engine in ("graph", "eager"):
        trainer = run(Trainer(*pair(), seed=0, engine=engine), A)
        trainer.save(tmp_path / "file.pt")
        again = load(tmp_path / "file.pt")
        ends += [found(run(trainer, B)), found(run(again, B))]
    assert len(recorded) == 2
    assert all(end == ends[0] for end in ends)


def test_a_resumed_run_goes_on_and_the_next_one_keeps_its_record(recorded, tmp_path):
    whole = Trainer(*pair(), seed=0)
    run(whole, A, epochs=2, checkpoint=tmp_path, every=40)
    run(whole, B)
    recorded.clear()
    newest = max(path for path in tmp_path.iterdir() if "64" in path.name)
    newest.unlink()
    again = Trainer.resume(tmp_path).fit(A, progress=False)
    run(again, B)
    assert found(again) == found(whole) and len(recorded) == 1


def test_an_interrupted_run_leaves_its_record_to_the_next_one(recorded):
    ends = []
    for engine in ("graph", "eager"):

        def interrupt(trainer, **kwargs):
            if trainer.step == 30:
                signal.raise_signal(signal.SIGINT)

        trainer = Trainer(*pair(), seed=0, engine=engine)
        run(trainer, A, callbacks=[Hook(on_step_end=interrupt)], on_interrupt="return")
        assert trainer.step == 30
        ends.append(found(run(trainer, B)))
    assert ends[0] == ends[1] and len(recorded) == 1


def test_validation_is_recorded_once(recorded):
    ends = []
    for engine in ("graph", "eager"):
        trainer = Trainer(*pair(), seed=0, engine=engine, beta=0.5)
        for data in (A, B, C):
            run(trainer, data[:60], epochs=30, validation=data[:30])
        ends.append(found(trainer))
    # Of validation there are no gradients
    assert recorded == ["TracedGradient", "Traced"] and ends[0] == ends[1]


def test_trainers_that_share_a_model_keep_a_record_each(recorded):
    vae, _ = pair()
    trainers = [Trainer(vae, guides.BottomUp(vae, hidden=(n,)), seed=0) for n in (8, 4)]
    for data in (A, B):
        for trainer in trainers:
            run(trainer, data)
    assert len(recorded) == 2


def test_svi_that_is_used_twice_records_once(recorded):
    shared, ends = infer.Graph(infer.TraceELBO()), []
    for engine in ("graph", "eager", shared, shared):
        programs = pair()
        torch.manual_seed(1)
        svi = infer.SVI(*programs, engine=engine)
        recorded.clear()
        losses = [svi.step(data[i : i + 20]) for data in (A, B, A) for i in (0, 20)]
        assert len(recorded) == (engine != "eager")
        ends.append([*map(float, losses), *map(torch.Tensor.tolist, values(*programs).values())])
    assert all(end == ends[0] for end in ends)


def test_a_pair_is_compiled_once_and_told_where_a_bar_is_shown(monkeypatch):
    calls = []

    def uncompiled(graph, inputs):
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "compiled", uncompiled)
    found_of = []
    for engine in ("compile", "eager"):
        trainer = Trainer(*pair(), seed=0, engine=engine)
        for data in (A, B, C):
            run(trainer, data)
        found_of.append(found(trainer))
    assert len(calls) == 1 and found_of[0] == found_of[1]


@pytest.mark.parametrize("engine", ["graph", "eager"])
def test_the_data_of_a_run_are_let_go(engine):
    array = np.random.default_rng(0).normal(size=(640, 6)).astype(np.float32)
    gone = weakref.ref(array)
    data = torch.from_numpy(array)
    trainer = run(Trainer(*pair(), seed=0, engine=engine), data, validation=data[20:])
    assert engine == "eager" or trainer.steps.running.records == 1
    del array, data
    gc.collect()
    assert gone() is None
    # Another guide is tried with data that are a copy
    trainer.swap_guide(guides.BottomUp(trainer.model))


def test_what_a_run_does_not_use_is_gone_after_the_next():
    trainer = Trainer(*pair(), seed=0)
    run(trainer, A)
    weight = weakref.ref(last_layer(trainer).weight)
    another_weight(trainer, 0)
    run(trainer, A)
    gc.collect()
    assert weight() is None


def test_runs_on_data_of_many_sizes_are_no_change_from_step_to_step():
    recorder, programs = infer.Graph(infer.TraceELBO(), after=10**6), pair()
    for n in range(2, 202, 2):
        recorder.begin_run()
        for rows_ in (n, n + 1):
            recorder(*programs, torch.zeros(rows_, 6))
    assert recorder.records == 0
