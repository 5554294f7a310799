import copy
import math
from functools import partial

import pyro
import pytest
import torch
from torch import nn

from pyro_vae import Trainer, codebooks, diagnostics, handlers, infer, likelihoods, load
from pyro_vae.guides import NearestCode
from pyro_vae.models import VAE, VQVAE

CODEBOOKS = [codebooks.Gradient, partial(codebooks.MovingAverage, decay=0.9)]


def image_pair(make=codebooks.MovingAverage, codes=6, dim=3, **options):
    vqvae = VQVAE(
        (1, 8, 8),
        likelihood=likelihoods.Bernoulli(),
        codebook=make(codes, dim),
        channels=(4, 8),
        blocks=1,
    )
    return vqvae, NearestCode(vqvae, **options)


def vector_pair(make=codebooks.MovingAverage, codes=3, dim=4, **options):
    vqvae = VQVAE(
        (5,), likelihood=likelihoods.Gaussian(0.3), codebook=make(codes, dim), hidden=(8,), grid=2
    )
    return vqvae, NearestCode(vqvae, **options)


def pixels(n=12):
    return torch.randint(2, (n, 1, 8, 8)).float()


class Outputs(nn.Module):
    """An encoder whose outputs are the parameters themselves, one grid per datum."""

    def __init__(self, *shape):
        super().__init__()
        self.z_e = nn.Parameter(torch.randn(*shape))

    def forward(self, x):
        return self.z_e[: len(x)]


def state(*programs):
    return [t.clone() for p in programs for t in (*p.parameters(), *p.buffers())]


def same(a, b):
    return all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


def outputs_pair(make, commitment, codes=3, dim=4, n=6):
    """A pair of fewer codes than dimensions, with codes where the outputs are."""
    codebook = make(codes, dim, initializer=None)
    with torch.no_grad():
        codebook.weight.copy_(torch.randn(codes, dim))
    vqvae = VQVAE((5,), likelihood=likelihoods.Gaussian(), codebook=codebook, hidden=(8,), grid=2)
    encoder = Outputs(n, 2, dim)
    return vqvae, NearestCode(vqvae, commitment=commitment, encoder=encoder), torch.randn(n, 5)


def decoder_gradient(vqvae, guide, x):
    """d log p(x|e) / d e at the vectors of the nearest codes, and these vectors."""
    z_e, codes = guide.encoder.z_e.detach(), vqvae.codebook.weight.detach()
    index = (z_e.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)
    e = codes[index].clone().requires_grad_()
    log_p = vqvae.likelihood(vqvae.decoder(e)).log_prob(x).sum()
    (gradient,) = torch.autograd.grad(log_p, e)
    return gradient, e.detach(), index


@pytest.mark.parametrize("make", CODEBOOKS)
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_straight_through_gradient_is_that_of_the_identity(make, engine):
    vqvae, guide, x = outputs_pair(make, commitment=0.0)
    gradient, _, _ = decoder_gradient(vqvae, guide, x)
    estimator = infer.TraceELBO()
    loss, _ = (infer.Graph(estimator) if engine == "graph" else estimator)(vqvae, guide, x)
    loss.backward()
    torch.testing.assert_close(guide.encoder.z_e.grad, -gradient)


def test_gradients_of_commitment_and_codebook_losses_by_hand():
    vqvae, guide, x = outputs_pair(codebooks.Gradient, commitment=0.7)
    gradient, e, index = decoder_gradient(vqvae, guide, x)
    z_e = guide.encoder.z_e
    loss, terms = infer.TraceELBO()(vqvae, guide, x)
    loss.backward()
    difference = z_e.detach() - e
    torch.testing.assert_close(z_e.grad, -gradient + 2 * 0.7 * difference)
    # Only from the codebook loss: nothing comes from the decoder
    expected = torch.zeros(3, 4).index_add(0, index.flatten(), -2 * difference.flatten(0, 1))
    torch.testing.assert_close(vqvae.codebook.weight.grad, expected)
    total = -terms.elbo.sum() + 1.7 * difference.square().sum()
    torch.testing.assert_close(loss.detach(), total)


def test_stock_pyro_has_the_same_gradients():
    vqvae, guide, x = outputs_pair(codebooks.Gradient, commitment=0.7)
    infer.TraceELBO()(vqvae, guide, x)[0].backward()
    ours = [p.grad.clone() for m in (vqvae, guide) for p in m.parameters()]
    vqvae.zero_grad()
    guide.zero_grad()
    pyro.infer.Trace_ELBO().differentiable_loss(vqvae, guide, x).backward()
    for mine, p in zip(ours, [p for m in (vqvae, guide) for p in m.parameters()], strict=True):
        torch.testing.assert_close(p.grad, mine)


def test_closed_form_kl_is_the_sampled_one():
    vqvae, guide, x = outputs_pair(codebooks.Gradient, commitment=0.7)
    sampled, _ = infer.TraceELBO()(vqvae, guide, x)
    exact, terms = infer.AnalyticELBO()(vqvae, guide, x)
    torch.testing.assert_close(exact, sampled)
    assert terms.kl["z1"].tolist() == pytest.approx([2 * math.log(3)] * 6)


@pytest.mark.parametrize("make", CODEBOOKS)
def test_loss_does_not_depend_on_the_batch_size(make):
    vqvae, guide = image_pair(partial(make, initializer=None))
    x = pixels(2)
    estimator = infer.TraceELBO(reduction="mean")
    losses = [
        float(estimator(*copy.deepcopy((vqvae, guide)), x.repeat(k, 1, 1, 1))[0].detach())
        for k in (1, 4, 32)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("build", [image_pair, vector_pair])
def test_kl_is_positions_times_log_codes(build):
    vqvae, guide = build()
    vqvae.double(), guide.double()
    x = torch.randint(2, (7, *vqvae.event_shape)).double()
    kl = infer.elbo_terms(vqvae, guide, x).kl["z1"]
    expected = math.prod(vqvae.grid_shape) * math.log(vqvae.codes)
    torch.testing.assert_close(kl, torch.full_like(kl, expected), rtol=1e-14, atol=0)


def test_codes_are_those_of_brute_force():
    vqvae, guide = image_pair(codes=40)
    with torch.no_grad():
        vqvae.codebook.weight.copy_(0.3 * torch.randn(40, 3))
    x = pixels()
    z_e = guide.encoder(x).double()
    distances = (z_e.unsqueeze(-2) - vqvae.codebook.weight.double()).square().sum(-1)
    assert torch.equal(guide.codes(x), distances.argmin(-1))


def test_the_decoder_sees_the_codes_before_the_update():
    vqvae, guide = image_pair(partial(codebooks.MovingAverage, decay=0.5, initializer=None))
    x = pixels()
    before = infer.elbo_terms(vqvae, guide, x)
    codes = vqvae.codebook.weight.clone()
    _, terms = infer.TraceELBO()(vqvae, guide, x)
    assert torch.equal(terms.reconstruction, before.reconstruction)
    assert not torch.equal(vqvae.codebook.weight, codes)
    assert not torch.equal(infer.elbo_terms(vqvae, guide, x).reconstruction, terms.reconstruction)


@pytest.mark.parametrize("modes", [(False, False), (True, False), (False, True)])
def test_outside_training_nothing_changes_and_the_objective_is_the_bound(modes):
    vqvae, guide = image_pair()
    vqvae.train(modes[0])
    guide.train(modes[1])
    before, x = state(vqvae, guide), pixels()
    for _ in range(3):
        loss = pyro.infer.Trace_ELBO().loss(vqvae, guide, x)
    assert same(before, state(vqvae, guide))
    if not modes[1]:
        assert loss == pytest.approx(-float(infer.elbo_terms(vqvae, guide, x).elbo.sum()))


def test_evaluation_in_training_mode_changes_nothing():
    vqvae, guide = image_pair()
    before, x = state(vqvae, guide), pixels()
    diagnostics.evaluate(vqvae, guide, x)
    infer.SVI(vqvae, guide).evaluate_loss(x)
    infer.reconstruct(vqvae, guide, x)
    guide.encode(x)
    infer.check_pair(vqvae, guide, x)
    assert same(before, state(vqvae, guide))
    assert vqvae.training and guide.training


def test_every_step_moves_the_averages_once():
    make = partial(codebooks.MovingAverage, decay=0.5, revive=0, initializer=None)
    vqvae, guide = image_pair(make)
    counts = vqvae.codebook.counts
    counts.zero_()
    svi = infer.SVI(vqvae, guide)
    x, expected = pixels(10), 0.0
    for _ in range(4):
        svi.step(x)
        expected = 0.5 * expected + 0.5 * 10 * 4  # ten grids of 2 x 2
        assert float(counts.sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("build", [image_pair, vector_pair])
@pytest.mark.parametrize("make", CODEBOOKS)
def test_recorded_steps_equal_eager_ones_with_their_averages(build, make):
    pair = build(make)
    twins = copy.deepcopy(pair)
    batches = [torch.randint(2, (4, *pair[0].event_shape)).float() for _ in range(20)]
    runs = []
    for programs, engine in ((pair, "eager"), (twins, "graph")):
        svi = infer.SVI(*programs, engine=engine)
        with torch.random.fork_rng():
            runs.append([float(svi.step(x)) for x in batches])
    assert runs[0] == runs[1]
    assert same(state(*pair), state(*twins))


def make_k_means(codes, dim):
    return codebooks.MovingAverage(codes, dim, initializer=codebooks.KMeans())


@pytest.mark.parametrize("make", [*CODEBOOKS, make_k_means])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_run_continues_from_its_file_to_the_last_bit(make, engine, tmp_path):
    vqvae, guide = image_pair(make)
    x = pixels(50)
    trainer = Trainer(vqvae, guide, seed=0, engine=engine)
    trainer.fit(x, epochs=3, batch_size=20, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert repr(again) == repr(trainer) and again.guide.model is again.model
    for t in (trainer, again):
        t.fit(x, epochs=3, batch_size=20, progress=False)
    assert same(state(vqvae, guide), state(again.model, again.guide))
    assert [r["elbo"] for r in again.history] == [r["elbo"] for r in trainer.history]


@pytest.mark.parametrize("make", [*CODEBOOKS, make_k_means])
def test_stock_svi_trains_the_pair(make):
    vqvae, guide = image_pair(make)
    x, before = torch.ones(40, 1, 8, 8), state(vqvae, guide)
    svi = pyro.infer.SVI(vqvae, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    losses = [svi.step(x) for _ in range(20)]
    assert losses[-1] < losses[0]
    for old, new in zip(before, state(vqvae, guide), strict=True):
        still = old.shape in ((0, 0), (2, 2, 6))  # no labels, uniform logits
        assert torch.equal(old, new) is still


def test_beta_weighs_the_kl_alone():
    vqvae, guide, x = outputs_pair(codebooks.Gradient, commitment=0.7)
    plain, terms = infer.TraceELBO()(vqvae, guide, x)
    scaled = [handlers.scale_latents(p, 3.0) for p in (vqvae, guide)]
    loss, same_terms = infer.TraceELBO()(*scaled, x)
    torch.testing.assert_close(loss - plain, 2 * terms.kl["z1"].sum())
    torch.testing.assert_close(same_terms.elbo, terms.elbo)
    scaled[1].zero_grad()
    loss.backward()
    assert guide.encoder.z_e.grad.abs().sum() > 0


def test_importance_weights_are_all_the_bound():
    vqvae, guide = image_pair()
    x = pixels(5)
    estimate = infer.importance(vqvae, guide, x, samples=7)
    elbo = infer.elbo_terms(vqvae, guide, x).elbo
    torch.testing.assert_close(estimate.log_likelihood, elbo, rtol=1e-5, atol=1e-4)


def test_another_guide_may_take_over_and_frozen_codes_stay():
    vqvae, guide = image_pair(codebooks.Gradient)
    trainer = Trainer(vqvae, guide, seed=0).fit(pixels(), epochs=1, progress=False)
    vqvae.codebook.freeze()
    codes = vqvae.codebook.weight.detach().clone()
    other = NearestCode(vqvae)
    before = state(other)
    trainer.swap_guide(other).fit(pixels(), epochs=2, progress=False)
    assert torch.equal(vqvae.codebook.weight, codes)
    assert not any(torch.equal(a, b) for a, b in zip(before, state(other), strict=True))


def test_denoising_pair_trains():
    vqvae, guide = image_pair()
    noisy = handlers.corrupt(guide, 0.3)
    Trainer(vqvae, noisy, seed=0).fit(pixels(), epochs=2, progress=False)


def test_what_it_is_not_for():
    vae = VAE((5,), 2, likelihood=likelihoods.Gaussian())
    with pytest.raises(TypeError, match=r"vqvae: expected a models\.VQVAE, got VAE"):
        NearestCode(vae)
    vqvae, _ = vector_pair()
    with pytest.raises(ValueError, match="commitment: expected a finite number >= 0"):
        NearestCode(vqvae, commitment=-1)
    with pytest.raises(ValueError, match=r"encoder: expected outputs \(n, 2, 4\)"):
        NearestCode(vqvae, encoder=nn.Linear(5, 8))


def test_print():
    _, guide = vector_pair()
    assert "q(z1|x) = nearest of 3 codes, commitment 0.25" in repr(guide)
