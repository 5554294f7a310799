"""Labels of which some are missing, against sums over the classes by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from families import FAMILIES
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import pyro_vae
from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods
from pyro_vae.models import VAE, PixelDecoder

K, N = 3, 6
Y = torch.tensor([2, -1, 0, -1, 1, -1])
X = (torch.rand(N, 4, generator=torch.Generator().manual_seed(1)) < 0.4).double()


class OwnDecoder(nn.Module):
    """One that takes rows alone, as a person writes it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 + K, 4)

    def forward(self, z, y):
        assert z.dim() == y.dim() == 2
        return self.linear(torch.cat([z, y], 1))


def built(labels="partial", event_shape=(4,), latents=2, **options):
    torch.manual_seed(0)
    options = {"hidden": (5,), "condition": K, "likelihood": likelihoods.Bernoulli()} | options
    return VAE(event_shape, latents, labels=labels, **options).double()


IMAGE = {"event_shape": (1, 6, 6), "hidden": None, "norm": nn.BatchNorm1d}
MODELS = {
    "one layer": dict,
    "two layers": lambda: {"latents": (2, 1)},
    "skip": lambda: {"latents": (2, 1), "skip": True},
    "normalised": lambda: {"norm": nn.BatchNorm1d},
    "image": lambda: IMAGE,
    "own decoder": lambda: {"decoder": OwnDecoder()},
    "pixels": lambda: {
        "event_shape": (1, 4, 4),
        "decoder": PixelDecoder((1, 4, 4), 2 + K, width=4, layers=2),
    },
}


def data_of(vae):
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(N, *vae.event_shape, generator=generator) < 0.4).double()


def joint(vae, z, x):
    """Log p(x, y, z) for each class, (n, K), by the model with all labels."""
    options = {k: v for k, v in vae.arguments.items() if k != "labels"}
    full = VAE(**options).double()
    full.load_state_dict(vae.state_dict())
    full.train(vae.training)
    columns = []
    for k in range(K):
        y = torch.full((len(x),), k)
        trace = poutine.trace(poutine.condition(full, data=z)).get_trace(x, y=y)
        trace.compute_log_prob()
        sites = [*z, "x"]
        columns.append(sum(trace.nodes[s]["log_prob"] for s in sites) - math.log(K))
    return torch.stack(columns, 1)


def own(x, y=None):
    """A guide that knows no labels."""
    with pyro.plate("data", len(x)):
        loc = x[:, :2] - 0.3
        pyro.sample("z1", dist.Normal(loc, 0.6).to_event(1))


@pytest.mark.parametrize("name", MODELS)
def test_classes_are_summed_as_by_hand(name):
    vae = built(**MODELS[name]())
    guide, x = guides.BottomUp(vae).double(), data_of(vae)
    # The statistics of BatchNorm in training are those of all classes
    vae.eval(), guide.eval()
    estimator = infer.TraceEnumELBO()
    estimator.prepare(vae, guide, x, Y)
    torch.manual_seed(3)
    terms = estimator(vae, guide, x, Y)[1]
    torch.manual_seed(3)
    q = poutine.trace(guide).get_trace(x, y=Y)
    q.compute_log_prob()
    log_q = sum(q.nodes[s]["log_prob"] for s in guide.latents)
    each = joint(vae, {s: q.nodes[s]["value"] for s in guide.latents}, x)
    log_p = torch.where(Y < 0, each.logsumexp(1), each.gather(1, Y.clamp(min=0)[:, None])[:, 0])
    torch.testing.assert_close(terms.elbo, (log_p - log_q).detach())


def test_with_all_labels_it_is_the_conditional_model():
    vae, full, y = built(), built("all"), Y.clamp(min=0)
    partial = infer.elbo_terms(vae, own, X, y=y)
    conditional = infer.elbo_terms(full, own, X, y=y)
    torch.testing.assert_close(partial.elbo, conditional.elbo - math.log(K))
    torch.testing.assert_close(partial.kl["z1"], conditional.kl["z1"])


@pytest.mark.parametrize("y", [None, torch.full((N,), -1), torch.full((N,), math.nan)])
def test_without_labels_it_is_the_mixture(y):
    vae = built()

    def mixture(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z1", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            uniform = dist.Categorical(torch.ones(K).double())
            k = pyro.sample("k", uniform, infer={"enumerate": "parallel"})
            logits = vae.decoder(z, one_hot(k, K).double())
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    found = infer.elbo_terms(vae, own, X, y=y)
    expected = infer.elbo_terms(mixture, lambda x: own(x), X)
    torch.testing.assert_close(found.elbo, expected.elbo)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)


def both(vae, **options):
    torch.manual_seed(1)
    guide = guides.BottomUp(vae)
    head = guides.Labelled(guides.BottomUp(vae), **options)
    return {"summed": guide.double(), "told": head.double()}


@pytest.mark.parametrize("which", ["summed", "told"])
def test_loss_and_gradient_are_those_of_pyro(which):
    vae = built(latents=(2, 1))
    guide = both(vae, weight=2.5)[which]
    found = []
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
    for ours, stock in zip(*found, strict=True):
        torch.testing.assert_close(ours, stock)


def test_the_term_of_the_classes_is_exact_and_the_classification_no_part_of_the_bound():
    vae = built()
    guide = both(vae, weight=2.5)["told"]
    loss, terms = infer.TraceEnumELBO()(vae, guide, X, Y)
    q = guide.classify(X)
    expected = (q * (q.log() + math.log(K))).sum(-1)
    torch.testing.assert_close(terms.kl["y"], torch.where(Y < 0, expected, 0.0))
    given = Y >= 0
    missed = cross_entropy(guide.classifier(X)[given], Y[given], reduction="sum")
    torch.testing.assert_close(loss, 2.5 * missed - terms.elbo.sum())


def test_a_step_on_given_labels_moves_the_classes_by_classification_alone():
    """The bound of such data has no gradient for q(y|x), not even noise."""
    vae, y = built(), Y.clamp(min=0)
    guide = both(vae, weight=0.0)["told"]
    loss = infer.TraceEnumELBO()(vae, guide, X, y)[0]
    found = torch.autograd.grad(loss, [*guide.classifier.parameters()], allow_unused=True)
    assert all(g is None or not g.any() for g in found)


def quadrature(vae, x):
    """Log p(x, y) of a model with one latent number, (n, K)."""
    z = torch.linspace(-9, 9, 2001).double()
    log_p = [
        joint(vae, {"z1": z[:, None]}, row.expand(len(z), -1)).logsumexp(0) + math.log(z[1] - z[0])
        for row in x
    ]
    return torch.stack(log_p).detach()


@pytest.mark.parametrize("which", ["summed", "told"])
def test_importance_sampling_conditions_on_given_labels(which):
    vae = built(latents=1)
    guide, each = both(vae)[which], quadrature(vae, X)
    torch.manual_seed(5)
    found = infer.importance(vae, guide, X, y=Y, samples=6000)
    exact = torch.where(Y < 0, each.logsumexp(1), each.gather(1, Y.clamp(min=0)[:, None])[:, 0])
    error = found.log_likelihood - exact
    assert excess(error / found.standard_error) < 1
    assert found.standard_error.max() < 0.05


def test_classify_is_the_posterior_or_the_head():
    vae = built(latents=1)
    pair = both(vae)
    torch.manual_seed(6)
    found = pair["summed"].classify(X, samples=3000)
    expected = quadrature(vae, X).softmax(1)
    torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0)
    for guide in pair.values():
        told = guide.classify(X, y=Y)
        assert torch.equal(told[Y >= 0], torch.eye(K).to(told)[Y[Y >= 0]])
    logits = pair["told"].classifier(X)
    torch.testing.assert_close(pair["told"].classify(X.numpy()), logits.softmax(-1).detach())
    given = infer.discrete_posterior(vae, pair["summed"], X, y=Y, samples=10)
    assert torch.equal(given[Y >= 0].argmax(1), Y[Y >= 0])


@pytest.mark.parametrize("which", ["summed", "told"])
def test_the_engines_agree_to_the_bit(which):
    ended, x = [], X.float()
    for engine in ("eager", "graph"):
        vae = built().float()
        guide = both(vae)[which].float()
        loss = infer.TraceEnumELBO()
        svi = infer.SVI(vae, guide, torch.optim.Adam, loss, engine=engine)
        torch.manual_seed(7)
        # A pair that cannot be recorded would be warned of
        for _ in range(5):
            svi.step(x, y=Y)
        ended.append([*map(torch.Tensor.detach, [*vae.parameters(), *guide.parameters()])])
    assert all(map(torch.equal, *ended))


@pytest.mark.parametrize("which", ["summed", "told"])
def test_reconstructions_have_the_class(which):
    """A given one, or one that x and z tell."""
    vae = built()
    guide = both(vae)[which]
    means = guide.encode(X, y=Y).mean
    k = means.pop("y", None)
    if k is None:
        k = torch.where(Y < 0, joint(vae, means, X).argmax(1), Y)
    found = infer.reconstruct(vae, guide, X, y=Y.double().where(Y >= 0, math.nan))
    assert torch.equal(k[Y >= 0], Y[Y >= 0])
    torch.testing.assert_close(found, vae.decode(means, y=k).mean)
    assert infer.interpolate(vae, guide, X[0], X[1], steps=4).shape == (4, 4)
    assert infer.traverse(vae, guide, X[0], site="z1", values=torch.zeros(3)).shape == (2, 3, 4)


def test_samples_have_the_class_that_is_asked_for():
    vae = built()
    trace = poutine.trace(vae).get_trace(y=torch.full((50,), 2))
    assert (trace.nodes["y"]["value"] == 2).all()
    drawn = poutine.trace(vae).get_trace(size=50).nodes["y"]["value"]
    assert len(drawn.unique()) == K
    assert vae.sample(5, y=1).shape == vae.sample(5).shape == (5, 4)


@pytest.mark.parametrize("which", ["summed", "told"])
def test_files_and_results(which, tmp_path):
    vae = built().float()
    guide, x = both(vae, weight=3.0)[which].float(), X.float()
    trainer = Trainer(vae, guide, elbo="enumerate", seed=0)
    y = Y.float().where(Y >= 0, math.nan)
    trainer.fit((x, y), validation=(x, Y), epochs=2, batch_size=3, progress=False)
    pyro_vae.save(trainer, tmp_path / "run.pt")
    again = pyro_vae.load(tmp_path / "run.pt")
    assert torch.equal(again.guide.classify(x), guide.classify(x))
    found = diagnostics.evaluate(again.model, again.guide, (x, y), importance_samples=20)
    torch.testing.assert_close(found.terms.elbo, infer.elbo_terms(vae, guide, x, y=Y).elbo)
    assert str(again.guide) == str(guide)


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


def test_who_sees_whom():
    vae = built(latents=(2, 1))
    assert vae.structure.latents["y"].enumerated
    assert guides.BottomUp(vae).inputs == {"z1": ("x", "y"), "z2": ("z1", "x", "y")}
    assert "p(x, z1, z2, y) = p(x|z1,y) p(z1|z2,y) p(z2) p(y)" in repr(vae)
    assert "labels" not in VAE((4,), likelihood=likelihoods.Bernoulli()).arguments


def test_what_cannot_be():
    vae = built(latents=(2, 1))
    guide = guides.BottomUp(vae).double()
    for y, got in (
        (torch.tensor([0, 1, 2, 3, 0, 0]), "labels from 0 to 2, or -1 .*, got 0 to 3"),
        (torch.tensor([0, 1, 2, -2, 0, 0]), "labels from 0 to 2, or -1 .*, got -2 to 2"),
    ):
        with pytest.raises(ValueError, match=got):
            Trainer(vae, guide, elbo="enumerate").fit((X, y), epochs=1, progress=False)
    with pytest.raises(ValueError, match="got none of class 0, 2: label one datum of each"):
        y = torch.tensor([1, 1, -1, -1, -1, -1])
        Trainer(vae, guide, elbo="enumerate").fit((X, y), epochs=1, progress=False)
    with pytest.raises(ValueError, match="'y' is to be summed out: pass elbo='enumerate'"):
        Trainer(vae, guide).fit((X, Y), epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"depends on 'y': use guides\.BottomUp"):
        guides.Ladder(vae)
    with pytest.raises(ValueError, match="which autoguides do not sum over"):
        guides.PerDatum(vae, X)
    with pytest.raises(ValueError, match="summed out, whose bound it does not climb"):
        guides.SemiAmortized(guide)


def test_a_guide_that_draws_them_is_told_of_the_sum():
    vae = built()
    trainer = Trainer(vae, both(vae)["told"])
    with pytest.warns(UserWarning, match="or pass elbo='enumerate' to sum them out"):
        trainer.fit((X, Y), epochs=1, progress=False)


def test_data_sets_with_names_may_lack_labels():
    vae = built()
    named = data.Dataset(X, Y, names=("a", "b", "c"))
    trainer = Trainer(vae, guides.BottomUp(vae).double(), elbo="enumerate")
    trainer.fit(named, epochs=1, progress=False)
    with pytest.raises(ValueError, match="names: expected a name for each label -2 to 2"):
        data.Dataset(X, Y - (Y < 0).long(), names=("a", "b", "c"))


@pytest.mark.parametrize("which", ["summed", "told"])
def test_a_table_may_lack_values_and_labels(which):
    """Numbers and categories, of which some are missing, as some labels are."""
    torch.manual_seed(0)
    parts = {0: likelihoods.Gaussian(), 1: likelihoods.Nominal(3)}
    options = {"likelihood": likelihoods.Mixed(parts), "condition": 2, "labels": "partial"}
    model = handlers.missing(VAE((2,), 2, hidden=(6,), **options))
    guide = guides.BottomUp(model)
    guide = guides.Labelled(guide) if which == "told" else guide
    x = torch.stack([torch.randn(24), torch.randint(0, 3, (24,)).float()], 1)
    x[::3, 0] = x[1::3, 1] = torch.nan
    y = torch.arange(24) % 3 - 1
    trainer = Trainer(model, guide, elbo="enumerate", seed=0, lr=0.01)
    trainer.fit((x, y), epochs=10, batch_size=8, progress=False)
    assert trainer.history[-1]["elbo"] > trainer.history[0]["elbo"]
    found = guide.classify(x)
    assert found.isfinite().all() and found.shape == (24, 2)
    estimate = infer.importance(model, guide, x, y=y, samples=20)
    assert estimate.log_likelihood.isfinite().all()
