"""Classes of which some are missing beside numbers, against sums over the classes by hand."""

import math

import pytest
import torch
from chance import excess
from families import FAMILIES
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods, load, plots
from pyro_vae.models import VAE, Covariates

K, N = 3, 6
NAMES = {"classes": {"site": K}, "numbers": {"age": 1, "dose": 2}, "offset": True}
SITE = torch.tensor([2, -1, 0, -1, 1, -1])
generator = torch.Generator().manual_seed(1)
X = torch.poisson(torch.full((N, 4), 2.0), generator).double()
NUMBERS = {
    "age": torch.randn(N, generator=generator).double(),
    "dose": torch.randn(N, 2, generator=generator).double(),
    "exposure": torch.rand(N, generator=generator).double() + 0.5,
}
Y = {"site": SITE, **NUMBERS}


def built(labels="partial", latents=2, given=None, **options):
    torch.manual_seed(0)
    options = {"hidden": (5,), "likelihood": likelihoods.Poisson()} | options
    given = Covariates(**NAMES) if given is None else given
    return VAE((4,), latents, labels=labels, condition=given, **options).double()


def both(vae, **options):
    torch.manual_seed(1)
    guide = guides.BottomUp(vae)
    head = guides.Labelled(guides.BottomUp(vae), **options)
    return {"summed": guide.double(), "told": head.double()}


def full_of(vae):
    """The model that is told all classes, of the same parameters."""
    full = VAE(**{k: v for k, v in vae.arguments.items() if k != "labels"}).double()
    full.load_state_dict(vae.state_dict())
    return full.train(vae.training)


def of_class(k, y=NUMBERS):
    return {**y, "site": torch.full((len(y["age"]),), k)}


def joint(full, z, x, y=NUMBERS):
    """Log p(x, k, z | numbers) for each class k, (n, K), by the model with all labels."""
    columns = []
    for k in range(K):
        program = poutine.condition(full, data=z)
        trace = poutine.trace(program).get_trace(x, y=of_class(k, y))
        trace.compute_log_prob()
        columns.append(sum(trace.nodes[s]["log_prob"] for s in (*z, "x")) - math.log(K))
    return torch.stack(columns, 1)


def summed(each, y=SITE):
    """Over classes that are missing."""
    given = each.gather(1, y.clamp(min=0)[:, None])[:, 0]
    return torch.where(y < 0, each.logsumexp(1), given)


MODELS = {
    "one layer": dict,
    "two layers": lambda: {"latents": (2, 1)},
    "skip": lambda: {"latents": (2, 1), "skip": True},
    "normalised": lambda: {"norm": nn.BatchNorm1d},
}


@pytest.mark.parametrize("name", MODELS)
def test_bound_and_gradient_are_sums_by_hand(name):
    vae = built(**MODELS[name]())
    guide = both(vae)["summed"]
    # The statistics of BatchNorm in training are those of all classes
    vae.eval(), guide.eval()
    full, estimator = full_of(vae), infer.TraceEnumELBO()
    estimator.prepare(vae, guide, X, Y)
    torch.manual_seed(3)
    loss, terms = estimator(vae, guide, X, Y)
    torch.manual_seed(3)
    q = poutine.trace(guide).get_trace(X, y=Y)
    q.compute_log_prob()
    z = {s: q.nodes[s]["value"] for s in guide.latents}
    bound = summed(joint(full, z, X)) - sum(q.nodes[s]["log_prob"] for s in guide.latents)
    torch.testing.assert_close(terms.elbo, bound.detach())
    found = torch.autograd.grad(loss, [*vae.parameters(), *guide.parameters()])
    expected = torch.autograd.grad(-bound.sum(), [*full.parameters(), *guide.parameters()])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("which", ["summed", "told"])
def test_loss_and_gradient_are_those_of_pyro(which):
    vae = built(latents=(2, 1))
    guide, found = both(vae, weight=2.5)[which], []
    for elbo in (infer.TraceEnumELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        if isinstance(elbo, TraceEnum_ELBO):
            torch.manual_seed(4)
            loss = elbo.differentiable_loss(vae, guide, X, y=Y)
        else:
            elbo.prepare(vae, guide, X, Y)
            torch.manual_seed(4)
            loss = elbo(vae, guide, X, Y)[0]
        parameters = [*vae.parameters(), *guide.parameters()]
        found.append((loss, *torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(*found)


def test_with_all_classes_it_is_the_conditional_model():
    vae, y = built(latents=(2, 1)), {**NUMBERS, "site": SITE.clamp(min=0)}
    guide = guides.BottomUp(built("all", latents=(2, 1))).double()

    def same(x, y=None):
        return guide(x, y=y)

    found = []
    for model in (vae, full_of(vae)):
        torch.manual_seed(2)
        loss, terms = infer.TraceEnumELBO()(model, same, X, y)
        found.append((terms, torch.autograd.grad(loss, [*model.parameters()])))
    (ours, gradient), (conditional, expected) = found
    torch.testing.assert_close(ours.elbo, conditional.elbo - math.log(K))
    torch.testing.assert_close(ours.kl, conditional.kl)
    torch.testing.assert_close(gradient, expected)


def test_classes_alone_are_those_of_a_number_of_them_to_the_bit():
    runs = []
    for condition, y in ((K, SITE), (Covariates(classes={"site": K}), {"site": SITE})):
        vae = built(given=condition)
        guide = both(vae)["told"]
        found = []
        for labels in (y, None):
            torch.manual_seed(3)
            found.append(infer.elbo_terms(vae, guide, X, y=labels).elbo)
        runs.append(found)
    assert all(map(torch.equal, *runs))


def test_the_guide_that_tells_classes_sees_the_numbers():
    vae = built()
    guide = both(vae, weight=2.5)["told"]
    loss, terms = infer.TraceEnumELBO()(vae, guide, X, Y)
    q = guide.classify(X, y=NUMBERS)
    expected = (q * (q.log() + math.log(K))).sum(-1)
    torch.testing.assert_close(terms.kl["y"], torch.where(SITE < 0, expected, 0.0))
    given = SITE >= 0
    missed = cross_entropy(q[given].log(), SITE[given], reduction="sum")
    torch.testing.assert_close(loss, 2.5 * missed - terms.elbo.sum())
    for name in NUMBERS:
        other = guide.classify(X, y={**NUMBERS, name: NUMBERS[name] + 1})
        assert not torch.allclose(other, q)
    # What is given is so for sure
    told = guide.classify(X, y=Y)
    assert torch.equal(told[given], torch.eye(K).double()[SITE[given]])
    torch.testing.assert_close(told[~given], q[~given])
    # What a data set has of classes is what is asked for
    for found in (data.Dataset(X, Y), (X, Y)):
        assert torch.equal(guide.classify(found), q)


def quadrature(vae):
    """Log p(x, k | numbers) of a model with one latent number, (n, K)."""
    z = torch.linspace(-9, 9, 2001).double()
    found, full = [], full_of(vae)
    for i in range(N):
        y = {name: value[i].expand(len(z), *value.shape[1:]) for name, value in NUMBERS.items()}
        each = joint(full, {"z1": z[:, None]}, X[i].expand(len(z), -1), y)
        found.append(each.logsumexp(0) + math.log(z[1] - z[0]))
    return torch.stack(found).detach()


@pytest.mark.parametrize("which", ["summed", "told"])
def test_importance_sampling_and_posterior_are_exact(which):
    vae = built(latents=1)
    guide, each = both(vae)[which], quadrature(vae)
    torch.manual_seed(5)
    found = infer.importance(vae, guide, X, y=Y, samples=6000)
    error = found.log_likelihood - summed(each)
    assert excess(error / found.standard_error) < 1
    assert found.standard_error.max() < 0.1
    p = infer.discrete_posterior(vae, guide, X, y=NUMBERS, samples=6000).double()
    torch.testing.assert_close(p, each.softmax(1), atol=0.03, rtol=0)
    if which == "summed":
        p = guide.classify(X, y=NUMBERS, samples=6000).double()
        torch.testing.assert_close(p, each.softmax(1), atol=0.03, rtol=0)
    given = infer.discrete_posterior(vae, guide, X, y=Y, samples=10)
    assert torch.equal(given[SITE >= 0].argmax(1), SITE[SITE >= 0])


@pytest.mark.parametrize("which", ["summed", "told"])
def test_the_engines_agree_to_the_bit(which):
    ended, x = [], X.float()
    for engine in ("eager", "graph"):
        vae = built().float()
        guide = both(vae)[which].float()
        svi = infer.SVI(vae, guide, torch.optim.Adam, infer.TraceEnumELBO(), engine=engine)
        torch.manual_seed(7)
        # A pair that cannot be recorded would be warned of
        for _ in range(5):
            svi.step(x, y=Y)
        ended.append([*map(torch.Tensor.detach, [*vae.parameters(), *guide.parameters()])])
    assert all(map(torch.equal, *ended))


@pytest.mark.parametrize("which", ["summed", "told"])
def test_reconstructions_have_the_class(which):
    """A given one, or one that x, z and the numbers tell."""
    vae = built()
    guide = both(vae)[which]
    means = guide.encode(X, y=Y).mean
    k = means.pop("y", None)
    if k is None:
        k = torch.where(SITE < 0, joint(full_of(vae), means, X).argmax(1), SITE)
    assert torch.equal(k[SITE >= 0], SITE[SITE >= 0])
    found = infer.reconstruct(vae, guide, X, y=Y)
    torch.testing.assert_close(found, vae.decode(means, y=NUMBERS | {"site": k}).mean)
    ends = {name: value[:2] for name, value in Y.items()}
    assert infer.interpolate(vae, guide, X[0], X[1], y=ends, steps=4).shape == (4, 4)


def test_samples_have_the_class_that_is_asked_for():
    vae = built()
    for y, classes in ((of_class(2), {2}), (NUMBERS, {0, 1, 2})):
        drawn = set()
        for _ in range(20):
            k = poutine.trace(vae).get_trace(y=y).nodes["y"]["value"]
            drawn |= {*k.tolist()}
        assert drawn == classes
    one = {"age": 0.3, "dose": [0.0, 1.0], "exposure": 2.0}
    assert vae.sample(5, y=one).shape == vae.sample(5, y=one | {"site": 1}).shape == (5, 4)
    z = torch.zeros(N, 2).double()
    with pytest.raises(ValueError, match=r"expected the class of each z.*got 3 of 6 missing"):
        vae.decode(z, y=Y)
    assert vae.decode(z, y=of_class(1)).mean.shape == (N, 4)
    plots.conditional(vae, n=2, y=one)


@pytest.mark.parametrize("which", ["summed", "told"])
def test_files_and_results(which, tmp_path):
    vae = built().float()
    guide, x = both(vae, weight=3.0)[which].float(), X.float()
    # NaN is missing, too
    y = {**NUMBERS, "site": SITE.float().where(SITE >= 0, math.nan)}

    def fit(epochs, trainer, **options):
        options = {"batch_size": 3, "progress": False, **options}
        return trainer.fit((x, y), validation=(x, Y), epochs=epochs, **options)

    def fresh():
        vae = built().float()
        return Trainer(vae, both(vae, weight=3.0)[which].float(), elbo="enumerate", seed=0)

    trainer = fit(3, Trainer(vae, guide, elbo="enumerate", seed=0))
    fit(2, fresh(), checkpoint=tmp_path / "run")
    resumed = fit(3, Trainer.resume(tmp_path / "run"), checkpoint=None)
    assert resumed.history[-1]["elbo"] == trainer.history[-1]["elbo"]
    trainer.save(tmp_path / "run.pt")
    again = load(tmp_path / "run.pt")
    found = [g.classify(x, y=NUMBERS) for g in (again.guide, guide)]
    assert torch.equal(*found)
    found = diagnostics.evaluate(again.model, again.guide, (x, y), importance_samples=20)
    torch.testing.assert_close(found.terms.elbo, infer.elbo_terms(vae, guide, x, y=Y).elbo)
    assert str(again.guide) == str(guide) and str(again.model) == str(vae)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("told", [False, True])
def test_guides_of_other_families(name, told):
    vae = built(latents=(3, 2))
    guide = FAMILIES[name](vae)
    guide = (guides.Labelled(guide) if told else guide).double()
    infer.check_pair(vae, guide, (X, Y))
    svi = infer.SVI(vae, guide, torch.optim.Adam, infer.TraceEnumELBO())
    assert math.isfinite(svi.step(X, y=Y))
    if name != "point mass":
        found = infer.importance(vae, guide, X, y=Y, samples=20).log_likelihood
        assert found.isfinite().all()


def test_every_form_of_data_gives_the_same():
    d, runs = data.Dataset(X, Y), []
    for form in ((X, Y), {"x": X, "y": Y}, d, DataLoader(d, batch_size=N)):
        vae = built()
        trainer = Trainer(vae, guides.BottomUp(vae).double(), elbo="enumerate", seed=0)
        runs.append(trainer.fit(form, epochs=2, progress=False).history[-1]["elbo"])
    assert runs[1:3] == runs[:1] * 2
    assert math.isfinite(runs[3])
    named = data.Dataset(X, {**Y, "site": ["c", None, "a", None, "b", None]})
    assert torch.equal(named.y["site"], SITE)


@pytest.mark.parametrize("which", ["summed", "told"])
def test_a_table_may_lack_values_and_classes(which):
    model = handlers.missing(built())
    guide = guides.BottomUp(model)
    guide = (guides.Labelled(guide) if which == "told" else guide).double()
    x = X.clone()
    x[::2, 0] = x[1::2, 1] = torch.nan
    trainer = Trainer(model, guide, elbo="enumerate", seed=0)
    trainer.fit((x, Y), epochs=2, progress=False)
    assert guide.classify(x, y=NUMBERS).isfinite().all()
    assert infer.importance(model, guide, x, y=Y, samples=20).log_likelihood.isfinite().all()


def test_who_sees_whom_and_parts_taken_elsewhere():
    vae = built(latents=(2, 1))
    assert vae.structure.parents["x"] == ("z1", "y", "y (argument)")
    assert built(given=Covariates(K)).structure.parents["x"] == ("z1", "y")
    assert guides.BottomUp(vae).inputs == {"z1": ("x", "y"), "z2": ("z1", "x", "y")}
    assert "Covariates(site: one of 3, some given, age, dose: 2, exposure)" in repr(vae)
    full = built("all", given=vae.condition)
    assert repr(full) == repr(built("all"))
    assert repr(built(given=vae.condition)) == repr(built())


def test_what_cannot_be():
    vae = built()
    guide = guides.BottomUp(vae).double()

    def fit(**changes):
        y = {k: v for k, v in (Y | changes).items() if v is not None}
        Trainer(vae, guide, elbo="enumerate").fit((X, y), epochs=1, progress=False)

    for site, got in (
        (SITE + 2, "labels from 0 to 2, or -1 .*, got 1 to 4"),
        (SITE - 1, "labels from 0 to 2, or -1 .*, got -2 to 1"),
        (SITE.clamp(max=1), "got none of class 2"),
        (SITE + 0.5, "expected whole numbers of classes"),
    ):
        with pytest.raises(ValueError, match=got):
            fit(site=site)
    with pytest.raises(ValueError, match="expected 'age' as well"):
        fit(age=None)
    with pytest.raises(ValueError, match=r"y\['age'\]: expected finite numbers"):
        fit(age=torch.full((N,), math.nan))
    with pytest.raises(ValueError, match="expected a mapping, got none"):
        guide.classify(X)
    fit(site=None)
    for given in (Covariates({"site": 3, "sex": 2}), Covariates(numbers=2)):
        with pytest.raises(ValueError, match="labels: expected covariates with classes of one"):
            built(given=given)
