"""What holds for each of the richer guides, over two layers and over the linear model."""

import copy
import warnings

import pyro
import pytest
import torch
from chance import excess, sigmas
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_vae import Trainer, guides, infer, load
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N = 20
GUIDES = {
    "FullCovariance": lambda vae, x: guides.FullCovariance(vae),
    "Flow": lambda vae, x: guides.Flow(vae, steps=2, step_hidden=8),
    "SemiAmortized": lambda vae, x: guides.SemiAmortized(guides.BottomUp(vae), steps=2),
    "SemiAmortized Ladder": lambda vae, x: guides.SemiAmortized(guides.Ladder(vae), steps=2),
    "PerDatum": guides.PerDatum,
    "Composed": lambda vae, x: guides.Composed(
        guides.BottomUp(vae, sites=["z1"]), guides.Flow(vae, sites=["z2"])
    ),
}
every = pytest.mark.parametrize("name", GUIDES)


def pair(name, *, condition=0, norm=None):
    torch.manual_seed(sum(map(ord, name)))
    vae = VAE((6,), (4, 3), likelihood=Gaussian(0.5), hidden=(8,), condition=condition, norm=norm)
    x = torch.randn(N, 6)
    return vae, GUIDES[name](vae, x), x


def tensors(*programs):
    return [t for p in programs for t in (*p.parameters(), *p.buffers())]


def moved(programs, run):
    before = [t.detach().clone() for p in programs for t in p.parameters()]
    run()
    after = [t for p in programs for t in p.parameters()]
    return [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]


@every
def test_stock_pyro_trains_it_and_comes_back_to_it(name):
    vae, guide, x = pair(name)
    other, again = guides.BottomUp(vae), GUIDES[name](vae, x)
    for g in (guide, other, guide, again, guide):
        svi = SVI(vae, g, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        idle = [h for h in (guide, other, again) if h is not g]
        still = [p.detach().clone() for h in idle for p in h.parameters()]
        assert all(moved([vae, g], lambda svi=svi: [svi.step(x) for _ in range(2)]))
        # Ladders hold modules of the model's only through it
        assert all(map(torch.equal, still, (p for h in idle for p in h.parameters())))


@every
def test_stock_pyro_finds_the_same_bound(name):
    vae, guide, x = pair(name)
    guide.eval()
    torch.manual_seed(0)
    loss = Trace_ELBO().loss(vae, guide, x)
    torch.manual_seed(0)
    assert loss == pytest.approx(-float(infer.elbo_terms(vae, guide, x).elbo.sum()), rel=1e-5)


@every
def test_trainer_as_a_graph_is_the_eager_one_to_the_last_bit(name, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
    model, guide, x = pair(name, norm=nn.BatchNorm1d)
    runs = {"eager": (model, guide), "graph": copy.deepcopy((model, guide))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        histories = {
            engine: Trainer(*programs, engine=engine, seed=0, lr=0.01)
            .fit(x, epochs=3, batch_size=10, progress=False)
            .history
            for engine, programs in runs.items()
        }
    bounds = [[row["elbo"] for row in h] for h in histories.values()]
    assert bounds[0] == bounds[1]
    assert all(map(torch.equal, *(tensors(*programs) for programs in runs.values())))


@every
def test_guides_come_and_go_in_one_trainer(name):
    vae, guide, x = pair(name)
    other = guides.BottomUp(vae)
    trainer = Trainer(vae, guide, seed=0, lr=0.01)
    for g in (guide, other, guide):
        trainer.swap_guide(g)
        assert all(
            moved([vae, g], lambda: trainer.fit(x, epochs=1, batch_size=10, progress=False))
        )


@every
def test_a_file_gives_the_same_guide(name, tmp_path):
    vae, guide, x = pair(name)
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=1, batch_size=10, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert repr(again.guide) == repr(guide)
    assert again.guide.latents == guide.latents
    expected = infer.elbo_terms(vae, guide, x).elbo
    assert torch.equal(infer.elbo_terms(again.model, again.guide, x).elbo, expected)
    for t in (trainer, again):
        t.fit(x, epochs=1, batch_size=10, progress=False)
    assert all(map(torch.equal, tensors(vae, guide), tensors(again.model, again.guide)))


@every
def test_double_precision(name):
    vae, guide, x = pair(name)
    vae, guide = vae.double(), guide.double()
    x = x.double()
    torch.manual_seed(0)
    loss, terms = infer.TraceELBO()(vae, guide, x)
    loss.backward()
    assert terms.elbo.dtype == torch.float64
    assert all(p.grad.dtype == torch.float64 for p in guide.parameters())
    assert guide.encode(x).mean["z2"].dtype == torch.float64
    estimate = infer.importance(vae, guide, x, samples=30)
    assert estimate.log_likelihood.isfinite().all()
    Trainer(vae, guide, seed=0).fit(x, epochs=1, progress=False)


@every
def test_labels_and_the_declared_sites(name):
    vae, guide, x = pair(name, condition=3)
    y = torch.arange(N) % 3
    assert infer.check_pair(vae, guide, x, y=y).guide_order == guide.latents
    Trainer(vae, guide, seed=0).fit((x, y), epochs=1, batch_size=10, progress=False)
    code = guide.encode(x[:1], y=y[:1])
    assert {s: tuple(z.shape) for s, z in code.mean.items()} == {"z1": (1, 4), "z2": (1, 3)}


@every
def test_a_copy_is_independent(name):
    vae, guide, x = pair(name)
    infer.TraceELBO()(vae, guide, x)[0].backward()
    before = tensors(guide)
    twin, twin_guide = copy.deepcopy((vae, guide))
    assert twin_guide.model is twin
    copies = [t.clone() for t in tensors(twin_guide)]
    Trainer(vae, guide, seed=0).fit(x, epochs=1, progress=False)
    assert all(map(torch.equal, tensors(twin_guide), copies))
    assert all(a is not b for a, b in zip(tensors(twin_guide), before, strict=True))
    assert torch.equal(
        infer.elbo_terms(twin, twin_guide, x).elbo, infer.elbo_terms(twin, twin_guide, x).elbo
    )


REFUSED = {
    "FullCovariance": "no closed-form KL between CholeskyNormal and Independent",
    "Flow": "no closed-form KL between FlowDistribution and Independent",
}


@pytest.mark.parametrize("name", [*REFUSED, "SemiAmortized", "PerDatum"])
def test_the_analytic_kl_of_one_layer_is_refused_where_there_is_none(name):
    vae = VAE((6,), 3, likelihood=Gaussian(0.5), hidden=(8,))
    x = torch.randn(N, 6)
    guide = GUIDES[name](vae, x)
    if name in REFUSED:
        with pytest.raises(ValueError, match=f"site 'z1': .*{REFUSED[name]}.* elbo='trace'"):
            infer.AnalyticELBO()(vae, guide, x)
        return
    exact = infer.elbo_terms(vae, guide, x, estimator=infer.AnalyticELBO()).kl["z1"]
    with infer.evaluating(vae, guide):
        draws = [infer.TraceELBO()(vae, guide, x)[1].kl["z1"] for _ in range(60)]
    sampled = torch.stack(draws)
    error = sampled.std(0) / len(sampled) ** 0.5
    assert excess((sampled.mean(0) - exact) / error, draws=len(sampled)) < 1


@pytest.mark.parametrize("name", ["FullCovariance", "Flow", "SemiAmortized", "Composed"])
def test_the_analytic_kl_of_a_bottom_up_order_is_refused(name):
    vae, guide, x = pair(name)
    with pytest.raises(ValueError, match="site 'z1': elbo='analytic' is wrong here"):
        infer.AnalyticELBO()(vae, guide, x)


LINEAR = {
    "BottomUp": lambda vae, x: guides.BottomUp(vae),
    "FullCovariance": GUIDES["FullCovariance"],
    "Flow": GUIDES["Flow"],
    "SemiAmortized": GUIDES["SemiAmortized"],
    "PerDatum": GUIDES["PerDatum"],
    "Ladder": lambda vae, x: guides.Ladder(vae),
    "Composed": lambda vae, x: guides.Composed(guides.FullCovariance(vae)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_importance_sampling_finds_the_exact_evidence(name, linear):
    linear.vae.requires_grad_(False)
    x = linear.data(N)
    guide = LINEAR[name](linear.vae, x)
    # On purpose too short for a tight bound
    svi = infer.SVI(linear.vae, guide, lambda p: torch.optim.Adam(p, lr=0.05))
    for _ in range(60):
        svi.step(x)
    estimate = infer.importance(linear.vae, guide, x, samples=2000)
    difference = estimate.log_likelihood - linear.evidence().log_prob(x)
    error = estimate.standard_error.square().sum().sqrt() / N
    assert error < 0.01
    assert abs(difference.mean()) < sigmas() * error + 1e-5
