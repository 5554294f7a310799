"""Guides of several modalities in all that trains and evaluates pairs."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from modalities import NAMES, Linear, N, Pictures, batch, pictures
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae import Trainer, diagnostics, guides, handlers, infer, load
from pyro_vae.data.arguments import Arguments

KINDS = (guides.ProductOfExperts, guides.MixtureOfExperts, guides.MixtureOfProducts)
every = pytest.mark.parametrize("kind", KINDS)
BOTH = ["image", "label"]


def pair(kind, *, missing=False):
    torch.manual_seed(0)
    model = Pictures()
    return model, kind(
        BOTH, model=handlers.missing(model) if missing else model, like=pictures(), hidden=(5,)
    )


def incomplete():
    """Rows with both modalities, or one of them."""
    data = pictures()
    data["label"] = data["label"].float()
    data["image"][::3] = torch.nan
    data["label"][1::3] = torch.nan
    return data


def moved(*programs):
    before = [p.detach().clone() for program in programs for p in program.parameters()]

    def still():
        after = [p for program in programs for p in program.parameters()]
        return [i for i, (a, b) in enumerate(zip(after, before, strict=True)) if torch.equal(a, b)]

    return still


@every
@pytest.mark.parametrize("missing", [False, True])
def test_a_graph_is_eager_to_the_last_bit(kind, missing, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.step._STEPS_BEFORE_A_GRAPH", 0)
    first = pair(kind, missing=missing)
    data = incomplete() if missing else pictures()
    histories, states = [], []
    for engine, (model, guide) in {"eager": first, "graph": copy.deepcopy(first)}.items():
        # The part of a pair under the handler is the pair
        shown = handlers.missing(model) if missing else model
        elbo = infer.SubsetELBO() if missing else "trace"
        trainer = Trainer(shown, guide, engine=engine, seed=0, lr=0.01, beta=0.5, elbo=elbo)
        still = moved(model, guide)
        trainer.fit(data, epochs=4, batch_size=6, progress=False)
        assert not still()
        histories.append([(row["elbo"], row["objective"]) for row in trainer.history])
        states.append([*model.state_dict().values(), *guide.state_dict().values()])
    assert histories[0] == histories[1]
    assert all(map(torch.equal, *states))


@every
def test_stock_pyro_trains_it_whatever_is_there(kind):
    model, guide = pair(kind)
    data, shown = pictures(), handlers.missing(model)
    for given in (data, {"image": data["image"]}, {"image": None, "label": data["label"]}):
        svi = SVI(shown, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        still, held = moved(guide), {m: e for m, e in zip(BOTH, guide.experts, strict=True)}
        assert svi.step(**given) < 1e4
        trained = sum(
            len([*held[name].parameters()]) for name in BOTH if given.get(name) is not None
        )
        assert len([*guide.parameters()]) - len(still()) == trained
        torch.manual_seed(0)
        loss = Trace_ELBO().loss(shown, guide, **given)
        torch.manual_seed(0)
        terms = infer.elbo_terms(shown, guide, given)
        assert loss == pytest.approx(-float(terms.elbo.sum()), rel=1e-4)
        # Tools of this library need no handler for that
        torch.manual_seed(0)
        assert torch.allclose(infer.elbo_terms(model, guide, given).elbo, terms.elbo, atol=1e-4)
        torch.manual_seed(0)
        own = infer.SVI(model, guide).evaluate_loss(**given)
        assert own == pytest.approx(loss, rel=0.2)


@every
def test_all_tools_take_it(kind):
    model, guide = pair(kind)
    other = KINDS[0](BOTH, model=model, like=pictures(), hidden=(5,))
    data, image = pictures(), {"image": pictures()["image"]}
    few = {"temperatures": 3, "chains": 2, "leapfrog": 1, "progress": False}
    for given in (data, image):
        found = diagnostics.evaluate(model, guide, given, importance_samples=5)
        assert found.terms.elbo.isfinite().all() and len(found.terms.elbo) == N
        compared = infer.compare_guides(model, {"a": guide, "b": other}, given, samples=20)
        assert len(compared.results) == 2
        assert infer.annealed(model, guide, given, **few).log_likelihood.isfinite().all()
        assert infer.check_pair(model, guide, given).guide_order == ("z",)
    assert diagnostics.collapse(model, guide, data).sites.keys() == {"z"}
    told = infer.elbo_terms(model, guide, data, per_unit=True).per_unit
    if kind is KINDS[0]:
        assert told["z"].shape == (N, 2)
    else:
        assert "a Mixture" in told.without["z"]
    still = moved(model, guide)
    infer.SVI(model, guide).step(**data)
    assert not still()
    elbo = infer.ImportanceWeightedELBO(4)
    trainer = Trainer(model, guide, elbo=infer.SubsetELBO(of=elbo), seed=0)
    trainer.fit(data, epochs=2, batch_size=6, progress=False)
    assert trainer.history[-1]["elbo"] < 0
    assert elbo(model, guide, Arguments((), image))[0].isfinite()


@every
def test_pairs_are_copied_pickled_and_saved(kind, tmp_path):
    model, guide = pair(kind)
    elbo = infer.SubsetELBO([("image",)], infer.TraceELBO("mean", "path"))
    trainer = Trainer(model, guide, elbo=elbo, seed=0, lr=0.01)
    trainer.fit(pictures(), epochs=2, batch_size=6, progress=False)
    trainer.save(tmp_path / "pair.pt", arguments=False)
    anew = pair(kind)
    again = load(tmp_path / "pair.pt", model=anew[0], guide=anew[1])
    assert again.elbo.subsets == (("image",),) and again.elbo.of.gradient == "path"
    torch.manual_seed(0)
    expected = infer.elbo_terms(model, guide, pictures()).elbo
    for other in (anew, copy.deepcopy((model, guide)), pickle.loads(pickle.dumps((model, guide)))):
        assert other[1].model is other[0]
        torch.manual_seed(0)
        assert torch.equal(infer.elbo_terms(*other, pictures()).elbo, expected)
    for t in (trainer, again):
        t.fit(pictures(), epochs=1, batch_size=6, progress=False)
    assert all(map(torch.equal, guide.state_dict().values(), anew[1].state_dict().values()))


def test_the_objective_of_subsets_is_the_sum_of_their_bounds():
    model, guide = pair(KINDS[0])
    data, trace = pictures(), infer.TraceELBO()
    for subsets in (None, [("label",)], [("image", "label"), ("image",)]):
        torch.manual_seed(0)
        loss, terms = infer.SubsetELBO(subsets, trace)(model, guide, Arguments((), data))
        torch.manual_seed(0)
        first, expected = trace(model, guide, Arguments((), data))
        for subset in subsets or [(name,) for name in BOTH]:
            part = {name: data[name] for name in subset}
            first = first + trace(model, guide, Arguments((), part))[0]
        assert torch.equal(terms.elbo, expected.elbo) and torch.allclose(loss, first)


def test_experts_that_are_trained_together_alone_are_not_right_alone():
    """The trap of the product, and what trains it."""
    model = Linear()
    torch.manual_seed(0)
    data = model.data(200)
    gaps = {}
    for name, elbo in (("together", "trace"), ("subsets", infer.SubsetELBO())):
        guide = guides.ProductOfExperts(NAMES, model=model, like=data, hidden=())
        trainer = Trainer(model, guide, elbo=elbo, lr=0.1, seed=0)
        trainer.fit(data, epochs=80, batch_size=200, progress=False)
        gaps[name] = {}
        for given in ({"c": data["c"]}, data):
            found = infer.importance(model, guide, given, samples=500).log_likelihood
            bound = infer.elbo_terms(model, guide, given, samples=20).elbo
            gaps[name][len(given)] = float((found - bound).mean())
    # All together are right in both
    assert gaps["together"][3] < 0.1 and gaps["subsets"][3] < 0.1
    assert gaps["subsets"][1] < 0.05 and gaps["together"][1] > 0.1, gaps


def test_what_all_data_share_is_left_to_composed():
    def model(a=None, b=None):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", batch(a, b)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=a)
            pyro.sample("b", dist.Normal(z, 0.5), obs=b)

    data = {"a": torch.randn(N), "b": torch.randn(N)}
    for kind in KINDS:
        guide = kind(["a", "b"], model=model, like=data, hidden=(4,))
        whole = guides.Composed(guide, globals=AutoNormal, like=data, model=model)
        assert guide.parents == (() if kind is guides.MixtureOfExperts else ("w",))
        assert {*infer.elbo_terms(model, whole, data).kl} == {"w", "z"}
        assert infer.elbo_terms(model, whole, {"b": data["b"]}).elbo.shape == (N,)
