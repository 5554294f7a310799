import copy
import itertools
import math

import pyro
import pytest
import torch
from chance import LEVEL, chance_of, excess, widened
from pyro.infer import SVI, Predictive, Trace_ELBO
from scipy import stats
from torch import nn

from pyro_vae import Trainer, diagnostics, guides, infer, likelihoods, load, plots, save
from pyro_vae.models import VAE, PixelDecoder

SMALL = {"layers": 2, "width": 6}
IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).reshape(16, 1, 2, 2)


def loud(module, std=0.7):
    """Weights far from zero, so that pixels depend on each other and on z."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def pair(event_shape=(1, 2, 2), latents=2, likelihood=None, outputs=1, **options):
    likelihood = likelihood or likelihoods.Bernoulli()
    total = 2 + options.get("condition", 0) if latents == 2 else sum(latents)
    decoder = loud(PixelDecoder(event_shape, total, outputs=outputs, skip=True, **SMALL))
    vae = VAE(event_shape, latents, likelihood=likelihood, decoder=decoder, hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("event_shape", "outputs"), [((4, 5), 1), ((3, 4, 4), 1), ((1, 4, 4), 3), ((2, 3, 3), 4)]
)
def test_features_depend_on_the_pixels_before_and_on_all_of_z(event_shape, outputs, skip):
    sizes = {"layers": 2, "width": 16}  # enough units that some are awake at every pixel
    decoder = loud(PixelDecoder(event_shape, 3, outputs=outputs, skip=skip, **sizes)).double()
    x = torch.randn(1, *event_shape, dtype=torch.float64)
    z = torch.randn(1, 3, dtype=torch.float64)
    shape = (1, *event_shape, outputs) if outputs > 1 else (1, *event_shape)
    assert decoder(z, x=x).shape == shape
    h, w = event_shape[-2:]
    matrix = torch.autograd.functional.jacobian(lambda v: decoder(z, x=v), x)
    matrix = matrix.reshape(-1, h, w, outputs, x[0].numel() // (h * w), h, w)
    depends = matrix.abs().sum((0, 3, 4)).reshape(h * w, h * w) > 0
    assert not depends.triu().any()
    assert depends.diagonal(-1)[0] and depends.sum() > h * w
    of_z = torch.autograd.functional.jacobian(lambda v: decoder(v, x=x), z)
    assert (of_z != 0).all()


@pytest.mark.parametrize("event_shape", [(1, 2, 2), (2, 2)])
def test_probabilities_of_all_images_sum_to_one_and_samples_match_them(event_shape):
    vae, _ = pair(event_shape)
    images = IMAGES.reshape(16, *event_shape)
    z = torch.tensor([[0.5, -1.0]])
    p = vae.decode(z).log_prob(images).exp().detach()
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    assert p.max() > 3 * p.min()
    draws = vae.decode(z.expand(20000, 2)).sample().reshape(20000, 4)
    counts = torch.bincount((draws @ torch.tensor([8.0, 4, 2, 1])).long(), minlength=16)
    assert chance_of(counts, 20000, p) > LEVEL
    chi_square = ((counts - 20000 * p).square() / (20000 * p)).sum()
    assert stats.chi2.sf(chi_square, 15) > LEVEL


def test_a_walk_gives_the_features_of_the_whole_image():
    decoder = loud(PixelDecoder((2, 7, 8), 3, outputs=3, skip=True, layers=2, width=16)).double()
    x, z = torch.randn(2, 2, 7, 8).double(), torch.randn(2, 3).double()
    whole = decoder(z, x=x)
    for place, features in decoder.walk(x.clone(), z):
        torch.testing.assert_close(features, whole[place])


def test_probabilities_are_the_product_of_the_conditionals_pixel_by_pixel():
    vae, _ = pair((1, 3, 3))
    x, z = torch.randint(2, (4, 1, 3, 3)).float(), torch.randn(4, 2)
    total = torch.zeros(4)
    for row, column in itertools.product(range(3), range(3)):
        before = x.clone()
        before[..., row, column:] = 0.0
        before[..., row + 1 :, :] = 0.0
        logit = vae.decoder(z, x=before)[:, 0, row, column]
        total += nn.functional.logsigmoid(torch.where(x[:, 0, row, column] == 1, logit, -logit))
    torch.testing.assert_close(vae.decode(z).log_prob(x), total.detach())


def test_the_mean_is_unbiased():
    vae, _ = pair()
    z = torch.tensor([[0.5, -1.0]])
    p = vae.decode(z).log_prob(IMAGES).exp().detach()
    exact = (p[:, None, None, None] * IMAGES).sum(0)
    means = vae.decode(z.expand(5000, 2)).mean
    assert means.shape == (5000, 1, 2, 2)
    error = (means.std(0) / math.sqrt(5000)).clamp(min=1e-6)
    assert excess((means.mean(0) - exact) / error) < 1
    # The first pixel sees no other
    assert means[:, 0, 0, 0].unique().numel() == 1


@pytest.mark.parametrize(
    ("event_shape", "likelihood", "outputs", "x"),
    [
        ((1, 3, 3), likelihoods.Categorical(4), 4, torch.randint(4, (6, 1, 3, 3)) / 3),
        ((3, 3, 3), likelihoods.DiscretizedLogistic(8), 2, torch.randint(8, (6, 3, 3, 3)) / 7),
        ((3, 3), likelihoods.Gaussian(0.5), 1, torch.randn(6, 3, 3)),
    ],
)
def test_other_likelihoods(event_shape, likelihood, outputs, x):
    vae, guide = pair(event_shape, likelihood=likelihood, outputs=outputs)
    samples = vae.sample(5)
    assert samples.shape == (5, *event_shape)
    likelihood.check(samples)
    assert infer.elbo_terms(vae, guide, x).elbo.isfinite().all()


def test_all_levels_of_a_categorical_pixel_are_drawn_as_they_are_scored():
    vae, _ = pair((1, 1, 2), likelihood=likelihoods.Categorical(3), outputs=3)
    z = torch.tensor([[0.5, -1.0]])
    images = torch.tensor(list(itertools.product([0, 0.5, 1.0], repeat=2))).reshape(9, 1, 1, 2)
    p = vae.decode(z).log_prob(images).exp().detach()
    assert p.sum() == pytest.approx(1.0, abs=1e-6)
    draws = vae.decode(z.expand(20000, 2)).sample().reshape(20000, 2)
    counts = torch.bincount((draws @ torch.tensor([6.0, 2.0])).long(), minlength=9)
    assert chance_of(counts, 20000, p) > LEVEL


def test_importance_sampling_reaches_the_sum_over_all_images():
    """exp(log p(x)) of all 16 images sums to one."""
    vae, guide = pair()
    estimate = infer.importance(vae, widened(guide), IMAGES, samples=20000)
    p = estimate.log_likelihood.exp()
    error = (p * estimate.standard_error).square().sum().sqrt()
    assert excess((p.sum() - 1) / error) < 1
    assert error < 0.02


@pytest.mark.parametrize("options", [{"condition": 3}, {"latents": (3, 2), "skip": True}])
def test_labels_and_layers(options):
    vae, guide = pair(**options)
    y = torch.arange(16) % 3 if "condition" in options else None
    assert infer.elbo_terms(vae, guide, IMAGES, y=y).elbo.shape == (16,)
    assert vae.sample(3, y=None if y is None else y[:3]).shape == (3, 1, 2, 2)


def test_sample_dimensions_broadcast():
    vae, _ = pair()
    z = torch.randn(4, 5, 2)
    x = IMAGES[:5]
    p_x = vae.decoder.distribution(vae.likelihood, z)
    assert p_x.batch_shape == (4, 5) and p_x.event_shape == (1, 2, 2)
    rows = torch.stack([vae.decode(z[i]).log_prob(x) for i in range(4)])
    torch.testing.assert_close(p_x.log_prob(x).detach(), rows)
    assert p_x.sample((3,)).shape == (3, 4, 5, 1, 2, 2)
    one = vae.decoder.distribution(vae.likelihood, z[0, :1])
    assert one.expand((5,)).log_prob(x).shape == (5,)


def test_eager_and_graph_are_equal():
    losses = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        trainer = Trainer(*pair(), seed=0, engine=engine)
        trainer.fit(IMAGES, epochs=30, batch_size=4, progress=False)
        losses.append([row["elbo"] for row in trainer.history])
    assert losses[0] == losses[1] and losses[0][-1] > losses[0][0]


def test_saved_and_loaded(tmp_path):
    vae, guide = pair((2, 3, 3), likelihood=likelihoods.Categorical(4), outputs=4)
    trainer = Trainer(vae, guide, seed=0)
    save(trainer, tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    torch.manual_seed(0)
    expected = vae.sample(3)
    torch.manual_seed(0)
    assert torch.equal(again.model.sample(3), expected)


def test_stock_pyro():
    vae, guide = pair()
    before = copy.deepcopy(vae.state_dict())
    svi = SVI(vae, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(2):
        svi.step(IMAGES)
    moved = [k for k, v in vae.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == [name for name, _ in vae.named_parameters()]
    assert Predictive(vae, num_samples=3)(size=2)["x"].shape == (3, 2, 1, 2, 2)


def test_pictures_and_reports():
    vae, guide = pair((1, 4, 4))
    x = torch.randint(2, (6, 1, 4, 4)).float()
    plots.samples(vae, 4)
    plots.reconstructions(vae, guide, x)
    diagnostics.evaluate(vae, guide, x, importance_samples=5)


def test_bad_input():
    with pytest.raises(ValueError, match="event_shape: expected an image"):
        PixelDecoder((4,), 2)
    with pytest.raises(ValueError, match="latents: expected positive integers"):
        PixelDecoder((4, 4), 0)
    with pytest.raises(ValueError, match="decoder: Categorical for data of shape"):
        VAE((4, 4), 2, likelihood=likelihoods.Categorical(4), decoder=PixelDecoder((4, 4), 2))
