"""Records are compared with their programs while these run, and leave no trace."""

import contextlib
import random
import warnings

import numpy as np
import pytest
import torch
from pairs import one_layer, state
from programs_stateful import Between

from pyro_vae import Trainer, guides
from pyro_vae.infer import SVI, Graph, TraceELBO
from pyro_vae.infer.engine.repeated import Repeated
from pyro_vae.infer.engine.state import Changed, alike
from pyro_vae.infer.engine.traced import TracedGradient

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))


class Library:
    """Something that no walk reaches, as a library's own state."""

    scale, calls = 1.0, 0


@pytest.fixture
def hidden(monkeypatch):
    """A number outside of the pair that it reads, and how often it does."""
    monkeypatch.setattr(random, "outside", Library, raising=False)
    monkeypatch.setattr(Library, "scale", 1.0)
    monkeypatch.setattr(Library, "calls", 0)
    return Library


def read(self, h, x):
    random.outside.calls += 1
    return h * random.outside.scale


def pair(between=read, **held):
    torch.manual_seed(0)
    vae, _ = one_layer()
    return vae, guides.BottomUp(vae, encoder=Between(between, **held))


def calls_at(hidden, steps, take):
    """The steps at which the programs ran."""
    found = []
    for step in range(1, steps + 1):
        before = hidden.calls
        take(step)
        if hidden.calls > before:
            found.append(step)
    return found


def test_steps_1_2_4_8_after_recording_are_compared(hidden):
    graph, programs = Graph(TraceELBO(), after=3), pair()
    hidden.calls = 0
    found = calls_at(hidden, 140, lambda step: graph.backward(*programs, X[:20]))
    assert found == [1, 2, 3, *(3 + 2**i for i in range(8))]  # the first is recorded as well


def test_without_epochs_a_comparison_is_due_after_200_steps(hidden):
    graph, programs = Graph(TraceELBO()), pair()
    found = calls_at(hidden, 800, lambda step: graph.backward(*programs, X[:20]))
    assert found == [1, 2, 4, 8, 16, 32, 64, 128, 256, 456, 512, 712]


def test_an_epoch_begins_with_a_comparison_once_100_steps_have_passed(hidden):
    graph, programs = Graph(TraceELBO()), pair()

    def take(step):
        if step % 30 == 1:
            graph.begin_epoch(step - 1)
        graph.backward(*programs, X[:20])

    # 64, then the first of an epoch that lies 100 steps after the last one
    expected = [1, 2, 4, 8, 16, 32, 64, 128, 241, 256, 361, 481, 512]
    assert calls_at(hidden, 600, take) == expected


def test_a_difference_ends_the_record_with_one_warning_that_names_the_step(hidden, graphs):
    found = {}
    for engine in ("eager", "graph"):
        svi, losses = SVI(*pair(), engine=engine), []
        hidden.scale = 1.0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(1, 41):
                if step == 12:
                    hidden.scale = 2.0
                losses.append(svi.step(X[:20]))
        found[engine] = torch.stack(losses)
    equal = found["eager"] == found["graph"]
    # The first step runs eagerly; the records of steps 2, 3, 5, 9 and 17 are compared
    assert equal[:11].all() and not equal[11:16].any()
    (told,) = [str(w.message) for w in caught]
    assert "runs eagerly from step 17 on" in told and "since step 9," in told
    assert graphs[Graph][-1].records == 0


def test_a_trainer_names_its_own_steps(hidden, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 4)
    trainer = Trainer(*pair(), seed=0)
    options = {"epochs": 1, "batch_size": 20, "progress": False}
    trainer.fit(X, **options).fit(X, **options)

    class Change:
        def on_step_end(self, trainer, **kwargs):
            hidden.scale = 1.0 if trainer.step < 22 else 2.0

    # Of the third run, step 21 has Pyro's checks, and 22 takes up the record of the first run,
    # which was used 14 times
    with pytest.warns(UserWarning, match="from step 23 on.*since step 22,"):
        trainer.fit(X, **options, callbacks=[Change()])


@pytest.mark.parametrize("collection", [[1.0], [1.0] * 10_001])
def test_what_changed_between_two_runs_is_seen_before_a_record_is_used(hidden, graphs, collection):
    """Also where a comparison might not show it: collections too long are never trusted."""
    ends = []
    for engine in ("eager", "graph"):
        hidden.scale = 1.0
        programs = pair(lambda self, h, x: read(self, h, x) * self.numbers[0], numbers=collection)
        trainer = Trainer(*programs, seed=0, engine=engine)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for scale in (1.0, 1.0, 2.0):
                hidden.scale = scale
                trainer.fit(X, epochs=4, batch_size=20, progress=False)
        ends.append([row["elbo"] for row in trainer.history])
    assert ends[0] == ends[1] and graphs[Graph][-1].records == 1


def test_the_step_of_a_difference_is_that_of_the_program(hidden):
    """The first replay differs already: nothing has gone wrong by then."""
    found = {}
    for engine in ("eager", "graph"):
        svi = SVI(*pair(), engine=engine)
        hidden.scale = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(1, 8):
                hidden.scale = float(step)
                svi.step(X[:20])
        found[engine] = state(svi.model, svi.guide)
    assert all(torch.equal(a, b) for a, b in zip(*found.values(), strict=True))


def everything(net, *programs):
    """What recording is to leave as it is."""
    tensors = [t.detach().clone() for t in state(*programs)]
    tensors += [net.plain.clone(), net.generator.get_state(), torch.get_rng_state()]
    others = (
        random.getstate(),
        str(np.random.get_state()),
        net.python.getstate(),
        str(net.numpy.bit_generator.state),
        net.calls,
        list(net.kept),
        dict(net.named),
        net.array.tolist(),
        OUTSIDE[:],
        len(net._forward_hooks),
        [p.grad for p in programs[1].parameters()],
    )
    return tensors, others


OUTSIDE = []


def leaves_much_behind(fails):
    def between(self, h, x):
        self.calls += 1
        self.kept.append(1)
        self.named[len(self.named)] = h.shape
        self.fresh = h
        self.array += 1
        self.plain = self.plain + 1
        self.first.weight.data.mul_(1.0 + 1e-3)
        OUTSIDE.append(1)
        self.register_forward_hook(lambda *_: None)
        noise = random.random() + np.random.rand() + self.python.random() + self.numpy.random()
        torch.rand(3, generator=self.generator)
        if fails:
            raise fails
        return h + noise

    return between


@pytest.mark.parametrize("fails", [None, RuntimeError("no"), AttributeError("no"), KeyError("no")])
def test_recording_leaves_no_trace(fails):
    OUTSIDE.clear()
    held = {
        "calls": 0,
        "kept": [],
        "named": {},
        "array": np.zeros(2),
        "plain": torch.zeros(2),
        "python": random.Random(1),
        "numpy": np.random.default_rng(1),
        "generator": torch.Generator().manual_seed(1),
    }
    programs = pair(lambda self, h, x: h, **held)
    net = next(m for m in programs[1].modules() if isinstance(m, Between))
    net.between = leaves_much_behind(fails)
    graph, before = Graph(TraceELBO()), everything(net, *programs)
    with warnings.catch_warnings(), contextlib.suppress(Changed):
        warnings.simplefilter("ignore")
        traced = TracedGradient(*programs, graph.estimator, (X[:20], None))
        assert graph._record(traced, X[:20], None) is None
    after = everything(net, *programs)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1] and not hasattr(net, "fresh")


def test_a_program_that_fills_a_cache_when_it_first_runs_is_recorded():
    def cached(self, h, x):
        if self.cache is None:
            self.cache = torch.ones(8)
        return h * self.cache

    graph, programs = Graph(TraceELBO()), pair(cached, cache=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            graph.backward(*programs, X[:20])
    assert graph.records == 1


def test_what_has_gone_is_not_taken_for_what_came_after():
    """Functions that lie where another one lay have its id."""
    programs = pair(lambda self, h, x: h)
    net = next(m for m in programs[1].modules() if isinstance(m, Between))
    graph, eager = Graph(TraceELBO()), TraceELBO()
    for scale in (1.0, 2.0, 1.0, 3.0, 2.0, 4.0):
        handle = net.first.register_forward_hook(lambda m, a, output, t=scale: t * output)
        for _ in range(3):
            with torch.random.fork_rng():
                found = graph(*programs, X[:20])[0]
            with torch.random.fork_rng():
                assert torch.equal(found, eager(*programs, X[:20])[0])
        handle.remove()


def test_an_evaluation_that_differs_from_its_record_is_told():
    scale = [1.0]

    def function(x):
        return x * scale[0]

    run = Repeated(function, after=0)
    with torch.no_grad():
        for _ in range(3):
            run(torch.ones(2))
        scale[0] = 2.0
        with pytest.warns(UserWarning, match="call 4 of an evaluation.*since call 2"):
            assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))
        assert torch.equal(run(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_cancels_is_alike_up_to_the_rounding_of_what_was_summed(dtype):
    torch.manual_seed(0)
    large, eps = torch.full((100,), 1e3, dtype=dtype), torch.finfo(dtype).eps
    # Its norm is 6e-4, of which 2.2e-4 are allowed beside no larger sum, and here 1.5e-3
    noise = 3e-4 * torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=dtype)
    beside = large * (8e-5 / eps) / large.norm()

    def same(found, *others, at=noise):
        return alike([found, *others], [at, *(o.clone() for o in others)], exactly=False)

    assert not same(-noise) and not same(-noise, large / 1e6)
    assert same(-noise, beside)
    assert not same(2 * -noise, beside), "wrong by more than rounding"
    # Only what was computed counts, not what it was computed from
    assert not alike([-noise, beside], [noise, beside], exactly=False)
    assert not alike([-noise, beside], [noise, beside.clone()], exactly=True)
    for value in (torch.nan, torch.inf):
        spoiled = noise.clone()
        spoiled[0] = value
        infinite = torch.full((3,), value, dtype=dtype)
        assert not same(noise, beside, at=spoiled) and not same(spoiled, beside)
        assert same(spoiled, beside, at=spoiled.clone())
        assert not same(-noise, infinite), "what is not finite allows nothing"
    assert not same(noise[:3], beside) and not same(None, beside)
    assert not alike([noise], [noise, beside], exactly=False)
    counts = torch.arange(4)
    assert same(counts, beside, at=counts.clone()) and not same(counts + 1, beside, at=counts)
