"""Values that are NaN are missing: what is seen counts as if nothing else were there."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from missing_values import LinearGaussian, holes
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods, load
from pyro_vae.conditionals import StandardNormal
from pyro_vae.distributions import base_of
from pyro_vae.guides.inputs import with_mask
from pyro_vae.models import VAE, VQVAE, PixelDecoder
from pyro_vae.programs.missing import Hiding, Seen

N, D = 40, 6
LEVELS = torch.randint(0, 4, (N, D), generator=torch.Generator().manual_seed(0)) / 3
# A likelihood, and data without any missing
KINDS = {
    "Bernoulli": (likelihoods.Bernoulli, LEVELS.round()),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, LEVELS),
    "Categorical": (lambda: likelihoods.Categorical(4), LEVELS),
    "DiscretizedLogistic": (lambda: likelihoods.DiscretizedLogistic(4), LEVELS),
    **{
        f"Gaussian {sigma}": (lambda s=sigma: likelihoods.Gaussian(s, loc=5.0, scale=2.0), LEVELS)
        for sigma in (0.7, "learned", "optimal", "per_pixel", "predicted")
    },
}


def gradients(estimator, model, guide, x, seed=0):
    """Loss and gradients of copies of a pair."""
    model, guide = copy.deepcopy((model, guide))
    torch.manual_seed(seed)
    loss, _ = estimator(model, guide, x)
    loss.backward()
    return [loss.detach(), *(p.grad for m in (model, guide) for p in m.parameters())]


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_seen_nothing_changes_to_the_last_bit(kind):
    likelihood, x = KINDS[kind]
    torch.manual_seed(1)
    vae = VAE((D,), 2, likelihood=likelihood(), hidden=(5,))
    guide, model = guides.BottomUp(vae), handlers.missing(vae)
    for estimator in (infer.TraceELBO(), infer.AnalyticELBO(), infer.ImportanceWeightedELBO(3)):
        found = [gradients(estimator, m, guide, x) for m in (vae, model)]
        assert all(map(torch.equal, *found))
    assert torch.equal(*(infer.log_likelihood(m, guide, x) for m in (vae, model)))


@pytest.mark.parametrize("kind", KINDS)
def test_log_density_and_gradients_are_those_of_the_elements_that_are_seen(kind):
    likelihood, whole = KINDS[kind]
    x = holes(whole)
    torch.manual_seed(1)
    vae = VAE((D,), 2, likelihood=likelihood(), hidden=(5,))
    z = torch.randn(N, 2)

    def traced(model, x):
        site = poutine.trace(poutine.condition(model, {"z1": z})).get_trace(x).nodes["x"]
        return site["fn"]

    p = traced(handlers.missing(vae), x)
    log_p = p.log_prob(x)
    optimal = kind == "Gaussian optimal"
    # By hand: each element alone, where it is seen; sigma* is that of what is seen
    alone = traced(vae.eval() if optimal else vae, whole).base_dist
    if optimal:
        mean = vae.decoder(z)
        error = ((x - 5) / 2 - mean)[~x.isnan()]
        assert torch.allclose(vae.likelihood.sigma**2, error.square().mean(), rtol=1e-5)
        alone = dist.Normal(5 + 2 * mean, 2 * vae.likelihood.sigma)
    elements = alone.log_prob(whole)
    by_hand = torch.stack(
        [row[seen].sum() for row, seen in zip(elements, ~x.isnan(), strict=True)]
    )
    assert torch.allclose(log_p, by_hand, rtol=1e-5, atol=1e-5)
    weights = torch.arange(1.0, N + 1)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    got, expected = (
        torch.autograd.grad(weights @ value, parameters, materialize_grads=True)
        for value in (log_p, by_hand)
    )
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def seen_alone(distribution, x):
    """Log-probabilities, 0 for NaN."""
    return distribution.log_prob(x.nan_to_num()) * ~x.isnan()


@pytest.mark.parametrize(
    "make",
    [
        lambda a: dist.Poisson(a),
        lambda a: dist.Exponential(a),
        lambda a: dist.Gamma(a, a),
        lambda a: dist.Beta(a, a),
        lambda a: dist.LogNormal(a, a),
        lambda a: dist.StudentT(3.0, a, a),
        lambda a: dist.Cauchy(a, a),
        lambda a: dist.Laplace(a, a),
        lambda a: dist.Uniform(a - 3, a + 3),
        lambda a: dist.Pareto(a, a),
        lambda a: dist.NegativeBinomial(a, logits=a),
        lambda a: dist.ZeroInflatedPoisson(a, gate_logits=a),
        lambda a: dist.Binomial(5, logits=a),
        lambda a: dist.Geometric(logits=a),
        lambda a: dist.VonMises(a, a),
        lambda a: dist.Categorical(logits=torch.stack([a, 2 * a], -1)),
        lambda a: dist.MixtureSameFamily(
            dist.Categorical(logits=torch.stack([a, 2 * a], -1)),
            dist.Gamma(torch.stack([a, 2 * a], -1), 1.0),
        ),
        lambda a: dist.TransformedDistribution(
            dist.Normal(a, a), [dist.transforms.ExpTransform().inv.inv]
        ),
        lambda a: dist.Normal(a, a).mask(torch.tensor([True, False, True])),
        lambda a: dist.Normal(a[:1], a[:1]).expand((3,)),
    ],
)
def test_any_distribution_of_single_numbers_leaves_out_what_is_missing(make):
    torch.manual_seed(0)
    a = torch.ones(3, requires_grad=True)
    p = Seen(make(a), True)
    x = make(a).sample().float().clamp(max=3)
    expected = make(a).log_prob(x)[1:2].sum()
    (gradient,) = torch.autograd.grad(expected, a, materialize_grads=True)
    x[[0, 2]] = torch.nan
    log_p = p.log_prob(x)
    assert torch.allclose(log_p, torch.stack([log_p.new_zeros(()), expected, expected * 0]))
    (got,) = torch.autograd.grad(log_p.sum(), a, materialize_grads=True)
    assert torch.allclose(got, gradient)


def test_the_bound_with_the_exact_posterior_is_the_exact_evidence_of_what_is_seen():
    exact = LinearGaussian()
    x = holes(exact.vae.sample(200), 0.5)
    log_p, _ = exact.given(x)
    terms = infer.elbo_terms(exact.model, exact.guide, x)
    assert torch.allclose(terms.elbo, log_p, atol=2e-5)
    estimate = infer.importance(exact.model, exact.guide, x, samples=3)
    assert torch.allclose(estimate.log_likelihood, log_p, atol=2e-5)
    annealed = infer.annealed(
        exact.model, exact.guide, x[:20], temperatures=5, chains=2, progress=False
    )
    assert torch.allclose(annealed.log_likelihood, log_p[:20], atol=1e-4)


def test_the_bound_of_given_draws_is_that_by_hand():
    torch.manual_seed(0)
    vae = VAE((3,), 2, likelihood=likelihoods.Gaussian(0.5), hidden=(4,))
    model = handlers.missing(vae)
    guide = guides.BottomUp(model)
    x = torch.tensor([[1.0, torch.nan, 2.0], [torch.nan, torch.nan, -1.0]])
    torch.manual_seed(1)
    loss, terms = infer.TraceELBO()(model, guide, x)
    torch.manual_seed(1)
    q = guide.conditionals["z1"](torch.tensor([[1.0, 0, 2, 1, 0, 1], [0, 0, -1, 0, 0, 1.0]]))
    z = q.rsample()
    m = vae.decoder(z)
    log_p = [
        dist.Normal(m[0, [0, 2]], 0.5).log_prob(x[0, [0, 2]]).sum(),
        dist.Normal(m[1, 2], 0.5).log_prob(x[1, 2]),
    ]
    kl = q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(terms.reconstruction, torch.stack(log_p))
    assert torch.allclose(-loss, (torch.stack(log_p) - kl).sum())


def test_training_with_either_engine_is_the_same_and_improves_the_bound():
    x = holes(LinearGaussian().vae.sample(64), 0.5)
    found = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,)))
        trainer = Trainer(model, guides.BottomUp(model), lr=1e-2, seed=0, engine=engine)
        trainer.fit(x, epochs=12, batch_size=16, progress=False)
        found.append([row["elbo"] for row in trainer.history])
    assert found[0] == found[1] and found[0][-1] > found[0][0]


@pytest.mark.parametrize(
    "guide", [guides.BottomUp, guides.Ladder, guides.FullCovariance, guides.Flow, guides.Delta]
)
def test_files_and_checkpoints_hold_the_handler(guide, tmp_path):
    x = holes(torch.randn(32, 4))
    model = handlers.missing(VAE((4,), (2, 1), likelihood=likelihoods.Gaussian(), hidden=(4,)))
    options = {"beta": 0.0} if guide is guides.Delta else {}
    trainer = Trainer(model, guide(model), seed=0, **options)
    trainer.fit(x, epochs=2, batch_size=16, checkpoint=tmp_path / "run", every=1, progress=False)
    trainer.save(tmp_path / "trainer.pt")
    for again in (load(tmp_path / "trainer.pt"), Trainer.resume(tmp_path / "run")):
        assert "missing()" in repr(again.model)
        pairs = (trainer.model, trainer.guide), (again.model, again.guide)
        assert torch.equal(*(infer.elbo_terms(*pair, x).elbo for pair in pairs))
    trainer.swap_guide(guides.BottomUp(model)).fit(x, epochs=1, progress=False)


def test_stock_pyro_trains_it():
    x = holes(torch.randn(32, 4))
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,)))
    guide = guides.BottomUp(model)
    pyro.clear_param_store()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_programs_with_plates_inside_and_several_sites_are_served():
    class Scores(nn.Module):
        """Marks of several questions, and how many hours were worked."""

        def __init__(self):
            super().__init__()
            self.easy = nn.Parameter(torch.zeros(3))

        def forward(self, marks, hours):
            with pyro.plate("people", len(marks), dim=-2):
                skill = pyro.sample("skill", dist.Normal(0.0, 1.0))
                pyro.sample("hours", dist.Exponential((-skill).exp()), obs=hours[:, None])
                with pyro.plate("questions", 3, dim=-1):
                    pyro.sample("marks", dist.Normal(skill + self.easy, 0.5), obs=marks)

    marks = holes(torch.randn(30, 3))
    hours = torch.rand(30).where(torch.arange(30) % 3 > 0, torch.nan)
    x = {"marks": marks, "hours": hours}
    model = handlers.missing(Scores())
    trace = poutine.trace(poutine.condition(model, {"skill": torch.zeros(30, 1)})).get_trace(**x)
    trace.compute_log_prob()
    by_hand = seen_alone(dist.Normal(0.0, 0.5), marks)
    assert torch.allclose(trace.nodes["marks"]["log_prob"], by_hand)
    assert torch.allclose(trace.nodes["hours"]["log_prob"][:, 0], -hours.nan_to_num())
    for make in (guides.BottomUp, guides.Ladder):
        trainer = Trainer(model, make(model, like=x), seed=0)
        trainer.fit(x, epochs=3, batch_size=10, progress=False)
        assert infer.elbo_terms(model, trainer.guide, x).elbo.isfinite().all()


def test_discrete_latents_are_summed_out_of_what_is_seen():
    means = torch.tensor([-2.0, 2.0])

    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample(
                "k", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(means[k].unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = holes(torch.randn(20, 3))
    loss = TraceEnum_ELBO().loss(handlers.missing(mixture), lambda x: None, x)
    seen = seen_alone(dist.Normal(means[:, None, None], 1.0), x).sum(-1)
    by_hand = (seen + torch.tensor([[0.3], [0.7]]).log()).logsumexp(0)
    assert math.isclose(-loss, float(by_hand.sum()), rel_tol=1e-5)


def test_what_is_observed_may_be_made_of_the_data():
    def logs(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = z.unsqueeze(-1).expand(-1, 2)
            pyro.sample("log x", dist.Normal(mean, 1.0).to_event(1), obs=x.log())

    x = torch.tensor([[1.0, torch.nan], [torch.nan, 2.0], [3.0, 4.0]])
    model = handlers.missing(logs)
    terms = infer.elbo_terms(model, guides.BottomUp(model, like=x), x)
    assert terms.elbo.isfinite().all()


def test_sampling_is_as_without_the_handler():
    vae = VAE((4,), 2, likelihood=likelihoods.Gaussian())
    model = handlers.missing(vae)
    found = []
    for program in (vae, model):
        torch.manual_seed(0)
        found.append(torch.cat([program(size=3), program.sample(3)]))
    assert torch.equal(*found)
    assert not Hiding.active


def test_an_observed_value_of_the_trace_is_the_data_as_they_are():
    x = holes(torch.randn(5, 4))
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian()))
    site = poutine.trace(model).get_trace(x).nodes["x"]
    assert site["value"] is x and isinstance(base_of(site["fn"]), torch.distributions.Normal)
    guide = guides.BottomUp(model)
    again = infer.reconstruct(model, guide, x)
    assert again.isfinite().all()
    errors = infer.mean_squared_error(
        model, guide, x.where(x > 9, torch.nan).index_fill(0, torch.tensor([0]), 1.0)
    )
    assert errors.isfinite().all()


def test_data_come_in_all_forms(tmp_path):
    x = holes(torch.randn(24, 4))
    torch.save(x, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", x.numpy())
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,)))
    forms = {
        "tensor": x,
        "array": x.numpy(),
        "Dataset": data.Dataset(x),
        ".npy": data.load(tmp_path / "x.npy"),
        "DataLoader": DataLoader(TensorDataset(x), batch_size=8),
        "list": x.tolist(),
    }
    for form in forms.values():
        trainer = Trainer(model, guides.BottomUp(model), seed=0)
        trainer.fit(form, validation=x, epochs=1, progress=False)
        assert math.isfinite(trainer.history[-1]["elbo"])
    report = diagnostics.evaluate(model, trainer.guide, x, reference=x, importance_samples=5)
    assert list(report.baselines) == ["independent normal"]
    seen = [column[~column.isnan()].double() for column in x.T]
    by_hand = sum(
        seen_alone(dist.Normal(c.mean(), c.std()), column.double())
        for c, column in zip(seen, x.T, strict=True)
    )
    assert torch.allclose(report.baselines["independent normal"], by_hand)


REFUSED = {
    "fit": lambda vae, guide, x: Trainer(vae, guide).fit(x, epochs=1),
    "Dataset": lambda vae, guide, x: Trainer(vae, guide).fit(data.Dataset(x), epochs=1),
    "loader": lambda vae, guide, x: Trainer(vae, guide).fit(
        DataLoader(TensorDataset(x), 8), epochs=1
    ),
    "evaluate": lambda vae, guide, x: diagnostics.evaluate(vae, guide, x),
    "elbo_terms": infer.elbo_terms,
    "importance": infer.importance,
    "annealed": infer.annealed,
    "encode": lambda vae, guide, x: guide.encode(x),
    "reconstruct": infer.reconstruct,
    "mean_squared_error": infer.mean_squared_error,
    "stock": lambda vae, guide, x: poutine.trace(vae).get_trace(x),
    "layers": diagnostics.layers,
}


@pytest.mark.parametrize("where", REFUSED)
def test_without_the_handler_nan_are_refused_with_its_name(where):
    x = torch.randn(8, 4)
    x[3, 1] = torch.nan
    vae = VAE((4,), 2, likelihood=likelihoods.Gaussian())
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match=r"got 1 NaN or infinite.*handlers\.missing\(model\)"):
        REFUSED[where](vae, guides.BottomUp(vae), x)
    assert all(map(torch.equal, before.values(), vae.state_dict().values()))


def test_infinite_values_are_refused_with_it_too():
    x = torch.randn(8, 4)
    x[3, 1], x[0, 0] = torch.nan, torch.inf
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian()))
    for refused in (infer.elbo_terms, infer.importance):
        with pytest.raises(ValueError, match="got 1 NaN or infinite: remove or fill these ent"):
            refused(model, guides.BottomUp(model), x)
    with pytest.raises(ValueError, match=r"got 2 NaN or infinite, the first at x\[0, 0\]"):
        Trainer(model, guides.BottomUp(model)).fit(x, epochs=1)
    # Ranges are those of the seen
    binary = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Bernoulli()))
    x = torch.tensor([[0.0, 1.0, torch.nan, 0.5]])
    with pytest.raises(ValueError, match="Bernoulli expects only 0 and 1"):
        infer.elbo_terms(binary, guides.BottomUp(binary), x)
    with pytest.raises(ValueError, match="Bernoulli expects only 0 and 1"):
        Trace_ELBO().loss(binary, guides.BottomUp(binary), torch.cat([x, x.nan_to_num()]))


def test_rows_and_elements_without_a_value_are_refused_before_training():
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian()))
    trainer = Trainer(model, guides.BottomUp(model))
    x = torch.randn(8, 4)
    row, column = x.clone(), x.clone()
    row[2], column[:, 3] = torch.nan, torch.nan
    with pytest.raises(ValueError, match=r"each row, got 1 of 8 without, the first in row 2"):
        trainer.fit(row, epochs=1)
    with pytest.raises(ValueError, match=r"got 1 of 4 .* missing in all 8, .* them element 3"):
        trainer.fit(column, epochs=1)
    assert trainer.step == 0
    # Where nothing is learned there is no harm
    terms = infer.elbo_terms(model, trainer.guide, row)
    assert terms.reconstruction[2] == 0 and terms.elbo.isfinite().all()
    assert infer.elbo_terms(model, trainer.guide, column).elbo.isfinite().all()


class Joint(likelihoods.Likelihood):
    def forward(self, features):
        return dist.MultivariateStudentT(
            torch.tensor(5.0), features, torch.eye(features.shape[-1])
        )


def test_missing_parts_of_joint_distributions_are_refused_by_name():
    x = torch.randn(8, 4)
    x[3, 1] = torch.nan
    model = handlers.missing(VAE((4,), 2, likelihood=Joint()))
    guide = guides.BottomUp(model)
    refused = {
        "fit": lambda: Trainer(model, guide).fit(x, epochs=1),
        "stock": lambda: Trace_ELBO().loss(model, guide, x),
        "impute": lambda: infer.impute(model, guide, x),
    }
    for refuse in refused.values():
        with pytest.raises(
            ValueError, match=r"site 'x': .* got a MultivariateStudentT over \(4,\)"
        ):
            refuse()
    # With all seen it is what it is without
    x = x.nan_to_num()
    assert torch.equal(*(infer.elbo_terms(m, guide, x).elbo for m in (model, model.program)))
    pixels = (torch.rand(4, 1, 6, 6) < 0.5).float()
    pixels[0, 0, 0, 0] = torch.nan
    decoder = PixelDecoder((1, 6, 6), 2, width=4, layers=2)
    model = handlers.missing(
        VAE((1, 6, 6), 2, likelihood=likelihoods.Bernoulli(), decoder=decoder)
    )
    with pytest.raises(ValueError, match="site 'x': expected a distribution of single numbers"):
        infer.elbo_terms(model, guides.BottomUp(model), pixels)


def test_missing_values_that_something_depends_on_are_refused_by_name():
    def regression(x, u):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + u, 1.0), obs=x)

    def chain(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x1", dist.Normal(z, 1.0), obs=x[:, 0])
            pyro.sample("x2", dist.Normal(z + x[:, 0], 1.0), obs=x[:, 1])

    x, u = torch.randn(12), torch.randn(12)
    x[4] = torch.nan
    model = handlers.missing(regression)
    guide = guides.BottomUp(model, like=(x, u))
    u = u.where(torch.arange(12) != 5, torch.nan)
    message = "^{}: expected missing values only of what is observed.* the loc of a Normal NaN"
    for refused in (
        lambda: infer.elbo_terms(model, guide, (x, u)),
        lambda: guides.BottomUp(model, like=(x, u)),
    ):
        with pytest.raises(ValueError, match=message.format("u|data\\[1\\]")):
            refused()
    with pytest.raises(ValueError, match=r"^data: (u|data\[1\]): expected missing"):
        Trainer(model, guide).fit((x, u), epochs=1)
    model = handlers.missing(chain)
    rows = torch.randn(12, 2)
    guide = guides.BottomUp(model, like=rows)
    rows[1, 1] = torch.nan
    assert infer.elbo_terms(model, guide, rows).elbo.isfinite().all()
    rows[2, 0] = torch.nan
    with pytest.raises(ValueError, match=message.format("x|data\\[0\\]")):
        infer.elbo_terms(model, guide, rows)


def test_a_guide_that_does_not_know_of_it_is_refused():
    x = holes(torch.randn(8, 4))
    vae = VAE((4,), 2, likelihood=likelihoods.Gaussian())
    model, guide = handlers.missing(vae), guides.BottomUp(vae)
    for refused in (
        lambda: Trainer(model, guide).fit(x, epochs=1),
        lambda: Trainer(model, guide).fit(DataLoader(TensorDataset(x), 8), epochs=1),
        lambda: infer.elbo_terms(model, guide, x),
        lambda: infer.importance(model, guide, x),
    ):
        with pytest.raises(ValueError, match="guide: expected one for data of which some are mis"):
            refused()


def test_what_has_no_missing_values_is_refused():
    x = holes(torch.randn(8, 4))
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian(), condition=2))
    guide = guides.BottomUp(model)
    y = torch.tensor([0.0, 1, 0, 1, torch.nan, 0, 1, 0])
    with pytest.raises(ValueError, match=r"y: expected whole numbers.* the first y\[4\] = nan"):
        Trainer(model, guide).fit((x, y), epochs=1)
    with pytest.raises(ValueError, match=r"got \d+ NaN or infinite, the .*: binarise before val"):
        data.Dataset(x, binarize="dynamic")
    with pytest.raises(TypeError, match="model: expected a generative program, got the guide Bot"):
        handlers.missing(guide)
    with pytest.raises(ValueError, match=r"site 'x': got torch.int64 data for a model of"):
        infer.elbo_terms(
            model, guide, torch.zeros(8, 4, dtype=torch.long), y=y.nan_to_num().long()
        )


def test_codes_are_of_what_is_seen():
    x = holes((torch.rand(16, 1, 8, 8) < 0.5).float())
    model = handlers.missing(
        VQVAE((1, 8, 8), codes=4, code_dim=3, likelihood=likelihoods.Bernoulli())
    )
    guide = guides.NearestCode(model)
    trainer = Trainer(model, guide, seed=0).fit(x, epochs=1, progress=False)
    assert math.isfinite(trainer.history[-1]["elbo"])
    with torch.no_grad():
        grid = guide.encoder(with_mask(x))
    assert torch.equal(guide.codes(x), model.codebook.nearest(grid))


def test_bits_per_dimension_are_of_what_is_seen():
    x = holes(LEVELS)
    model = handlers.missing(VAE((D,), 2, likelihood=likelihoods.Categorical(4)))
    found = diagnostics.evaluate(model, guides.BottomUp(model), x, importance_samples=0)
    assert math.isclose(found.dimensions, float((~x.isnan()).sum()) / N)
    (bits,) = (row[1] for row in found.table().rows if row[3] == "bits/dim")
    nats = -float(found.terms.elbo.sum()) / float((~x.isnan()).sum())
    assert math.isclose(bits, nats / math.log(2), rel_tol=1e-5)


def test_a_distribution_of_several_numbers_may_leave_them_out_itself():
    class Two(dist.TorchDistribution):
        """A number and a count, side by side."""

        arg_constraints = {}
        support = dist.constraints.real_vector

        def __init__(self, first, second):
            self.parts = first, second
            super().__init__(first.batch_shape, (2,), validate_args=False)

        def under_missing(self):
            return Two(*(Seen(part, True) for part in self.parts))

        def expand(self, batch_shape, _instance=None):
            return Two(*(part.expand(batch_shape) for part in self.parts))

        def sample(self, sample_shape=()):
            return torch.stack([part.sample(sample_shape) for part in self.parts], -1)

        def log_prob(self, value):
            values = value.unbind(-1)
            return sum(p.log_prob(v) for p, v in zip(self.parts, values, strict=True))

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Two(dist.Normal(z, 1.0), dist.Poisson(z.exp())), obs=x)

    x = torch.tensor([[1.0, torch.nan], [torch.nan, 3.0], [0.5, 2.0]])
    model = handlers.missing(program)
    z = torch.tensor([0.1, 0.2, 0.3])
    site = poutine.trace(poutine.condition(model, {"z": z})).get_trace(x).nodes["x"]
    by_hand = seen_alone(dist.Normal(z, 1.0), x[:, 0]) + seen_alone(dist.Poisson(z.exp()), x[:, 1])
    assert torch.allclose(site["fn"].log_prob(x), by_hand)


@pytest.mark.parametrize(
    "outer",
    [
        lambda model: model,
        lambda model: handlers.scale_latents(model, 2.0),
        lambda model: poutine.scale(model, 2.0),
        lambda model: handlers.replace_prior(model, StandardNormal(2)),
    ],
)
def test_handlers_may_be_around_it(outer):
    x = holes(torch.randn(8, 4))
    model = handlers.missing(VAE((4,), 2, likelihood=likelihoods.Gaussian()))
    around, guide = outer(model), guides.BottomUp(model)
    assert infer.elbo_terms(around, guide, x).elbo.isfinite().all()
    assert infer.impute(around, guide, x, samples=9).mean.isfinite().all()
    if hasattr(around, "check_data"):
        around.check_data(x)
        with pytest.raises(ValueError, match="got 1 NaN or infinite: remove or fill these entr"):
            around.check_data(torch.tensor([[torch.inf, 1.0, 1.0, torch.nan]]))


def test_a_row_that_lacks_a_category_is_checked_by_what_it_has():
    parts = {0: likelihoods.Gaussian(), 1: likelihoods.Nominal(3), 2: likelihoods.LogNormal()}
    model = handlers.missing(VAE((3,), 2, likelihood=likelihoods.Mixed(parts), hidden=(4,)))
    guide, x = guides.BottomUp(model), torch.tensor([[0.3, torch.nan, torch.nan]])
    assert infer.elbo_terms(model, guide, x).elbo.isfinite().all()
    with pytest.raises(ValueError, match="column 1: Nominal"):
        infer.elbo_terms(model, guide, torch.tensor([[torch.nan, 0.3, torch.nan]]))
