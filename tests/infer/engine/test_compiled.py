"""Compiled graphs against the program itself, and when they are worth their time."""

import copy
import functools
import logging
import warnings

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, guides, likelihoods, models
from pyro_vae.infer import SVI
from pyro_vae.infer.engine import compiled
from pyro_vae.infer.engine.compiled import AutoCompiled, Compiler


def pair():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Bernoulli(), hidden=(8,), norm=nn.BatchNorm1d)
    return vae, guides.BottomUp(vae)


def flat(*programs):
    return torch.cat(
        [t.detach().flatten().float() for p in programs for t in p.state_dict().values()]
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_steps_equal_eager_up_to_rounding_and_announce_their_time(caplog):
    eager = pair()
    compiled_pair = copy.deepcopy(eager)
    batches = torch.randint(2, (8, 20, 6)).float()
    losses, terms = {}, {}
    with caplog.at_level(logging.INFO, "pyro_vae"):
        for engine, programs in (("eager", eager), ("compile", compiled_pair)):
            # Not Adam, which makes whole steps of gradients that are rounding errors only
            svi = SVI(*programs, functools.partial(torch.optim.SGD, lr=1e-3), engine=engine)
            with torch.random.fork_rng():
                losses[engine] = torch.stack([svi.step(x) for x in batches])
            terms[engine] = svi.terms.elbo
    torch.testing.assert_close(losses["compile"], losses["eager"], rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["compile"], terms["eager"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat(*compiled_pair), flat(*eager), rtol=1e-3, atol=1e-4)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]
    assert message.startswith("compiled a step of ") and message.endswith(" s")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_trainer_compiles_a_long_run_by_itself(monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_START_SECONDS", 0.0)
    monkeypatch.setattr(compiled, "_NODE_SECONDS", 0.0)
    monkeypatch.setattr("pyro_vae.pair._STEPS_BEFORE_A_GRAPH", 2)
    trained = {}
    for engine in ("graph", "auto"):
        torch.manual_seed(0)
        vae, guide = pair()
        x = torch.randint(2, (64, 6)).float()
        trainer = Trainer(vae, guide, engine=engine, seed=0)
        trained[engine] = trainer.fit(x, epochs=20, batch_size=32).history.column("elbo")
    assert trained["auto"] == pytest.approx(trained["graph"], rel=1e-3)
    assert capsys.readouterr().out.count("compiled a step of ") == 1


@pytest.mark.parametrize(
    ("seconds", "steps", "operations", "pays"),
    [
        (5e-3, 1_000, 60, False),
        (5e-3, 100_000, 60, True),
        # 0.1 * 5e-3 * steps against 3 * (6 + 0.02 * 200) = 30 s
        (5e-3, 59_999, 200, False),
        (5e-3, 60_001, 200, True),
        (5e-3, 60_001, 600, False),
        (5e-3, 10**9, 0, False),
    ],
)
def test_compiling_pays_in_long_runs_only(seconds, steps, operations, pays):
    assert AutoCompiled.pays(seconds, steps, operations) == pays


def test_a_short_run_is_never_compiled():
    vae, guide = pair()
    engine = AutoCompiled(SVI(vae, guide).loss, remaining=lambda: 100)
    svi = SVI(vae, guide, engine=engine)
    for _ in range(60):
        svi.step(torch.zeros(4, 6))
    (choice,) = engine._choices.values()
    assert choice.settled and choice.engine is engine._graph
    assert engine._graph._recorded and not engine._compiled._recorded


@pytest.mark.parametrize(("factor", "kept"), [(0.5, True), (2.0, False)])
def test_compiled_steps_are_kept_where_they_are_faster(factor, kept, monkeypatch):
    monkeypatch.setattr(AutoCompiled, "pays", staticmethod(lambda *_: True))
    told = []
    vae, guide = pair()
    engine = AutoCompiled(SVI(vae, guide).loss, remaining=lambda: 1, announce=told.append)
    engine._compiled.compile = lambda graph, inputs: graph.forward
    seconds = {id(engine._graph): 1e-3, id(engine._compiled): factor * 1e-3}
    present = 0.0

    def now():
        nonlocal present
        (choice,) = engine._choices.values()
        # The first compiled step takes what compiling takes
        present += seconds[id(choice.engine)] if choice._seconds else 10.0
        return present

    monkeypatch.setattr(compiled.time, "perf_counter", now)
    for _ in range(60):
        engine.backward(vae, guide, torch.zeros(4, 6))
        for parameter in (*vae.parameters(), *guide.parameters()):
            parameter.grad = None
    (choice,) = engine._choices.values()
    assert choice.settled and (choice.engine is engine._compiled) == kept
    back = "a compiled step takes 2.00 ms, a recorded one 1.00 ms: going on with recorded ones"
    assert told == ([] if kept else [back])


def test_where_compiling_fails_the_graph_runs_with_a_notice(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand many more lines")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    eager, graph = pair(), None
    twins = copy.deepcopy(eager)
    x = torch.zeros(4, 6)
    expected = SVI(*eager, engine="graph")
    graph = SVI(*twins, engine="compile")
    losses = []
    for svi in (expected, graph):
        with torch.random.fork_rng(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses.append([float(svi.step(x)) for _ in range(3)])
    assert losses[0] == losses[1]
    assert [str(w.message) for w in caught] == [
        "the recorded graph runs uncompiled: no C++ compiler"
    ]


def test_announcements_go_where_they_are_asked_to(monkeypatch):
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **kwargs: graph.forward
    )
    told = []
    graph = torch.fx.symbolic_trace(lambda x: (x * 2,))
    run = Compiler(told.append)(graph, [torch.ones(2)])
    assert torch.equal(run(torch.ones(2))[0], torch.full((2,), 2.0))
    assert len(told) == 1 and told[0].startswith("compiled a step of ")
