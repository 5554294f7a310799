"""A pair that begins as probabilistic PCA, or factor analysis, with the exact posterior."""

import pytest
import torch
from linear_models import exact

from pyro_vae import Trainer, guides, infer, likelihoods, load, networks, save
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

D, K = 6, 2


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(3)
    z, noise = torch.randn(200, K, generator=generator), torch.randn(200, D, generator=generator)
    weight = torch.randn(K, D, generator=generator)
    # Columns of other scales, and of other noise
    return (z @ weight + noise * torch.linspace(0.3, 0.9, D)) * torch.arange(1, D + 1) + 5


def pair(x, sigma, shape=(D,), latents=K):
    likelihood = Gaussian.standardized(x, sigma)
    decoder = networks.Shortcut(latents, shape)
    vae = VAE(shape, latents, likelihood=likelihood, decoder=decoder)
    return vae, guides.linear_start(vae, x)


@pytest.mark.parametrize("sigma", ["learned", "per_pixel"])
@pytest.mark.parametrize("shape", [(D,), (1, 2, 3)])
def test_the_pair_begins_as_the_linear_model_and_its_posterior(x, sigma, shape):
    x = x.unflatten(1, shape)
    vae, guide = pair(x, sigma, shape)
    found = infer.importance(vae, guide, x, samples=5)
    torch.testing.assert_close(
        found.log_likelihood.double(), exact(x, sigma, K), atol=1e-3, rtol=0
    )
    # Weights of the exact posterior are all the same
    assert found.standard_error.max() < 1e-4
    terms = infer.elbo_terms(vae, guide, x)
    torch.testing.assert_close(terms.elbo, found.log_likelihood, atol=1e-3, rtol=1e-4)


def test_the_networks_begin_at_zero_and_train(x, tmp_path):
    vae, guide = pair(x, "per_pixel")
    z = torch.randn(7, K)
    torch.testing.assert_close(vae.decoder(z), vae.decoder.linear(z))
    before = infer.elbo_terms(vae, guide, x).elbo.mean()
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=3, batch_size=50, progress=False)
    assert not torch.allclose(vae.decoder(z), vae.decoder.linear(z))
    assert trainer.history[-1]["elbo"] == pytest.approx(float(before), abs=1.0)
    save(trainer, tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    torch.manual_seed(0)
    kept = infer.elbo_terms(vae, guide, x).elbo
    torch.manual_seed(0)
    assert torch.equal(infer.elbo_terms(again.model, again.guide, x).elbo, kept)


@pytest.mark.parametrize("sigma", ["learned", "per_pixel"])
def test_an_element_that_never_varies_is_no_obstacle(x, sigma):
    x[:, 2] = 7.0
    vae, guide = pair(x, sigma)
    assert infer.elbo_terms(vae, guide, x).elbo.isfinite().all()
    torch.testing.assert_close(vae.decode(torch.randn(5, K)).mean[:, 2], x[:5, 2])


def test_a_shortcut_adds_a_linear_path_to_its_network():
    network = networks.MLP((K + 1,), (4,), (2, 3))
    shortcut = networks.Shortcut(K + 1, (2, 3), network)
    inputs = torch.randn(5, K), torch.randn(5, 1)
    straight = shortcut.linear(torch.cat(inputs, -1)).view(5, 2, 3)
    torch.testing.assert_close(shortcut(*inputs), straight)
    torch.nn.init.normal_(network.output_layer.weight)
    bent = straight + network(*inputs)
    assert not torch.allclose(bent, straight)
    torch.testing.assert_close(shortcut(*inputs), bent)


@pytest.mark.parametrize("shape", [(9,), (5, 4), (3, 4, 6)])
def test_a_shortcut_has_the_default_network_of_the_shape(shape):
    shortcut = networks.Shortcut(2, shape)
    default = VAE(shape, 2, likelihood=likelihoods.Gaussian()).decoder
    assert type(shortcut.network) is type(default)
    assert shortcut(torch.zeros(4, 7, 2)).shape == (4, 7, *shape)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("latents", {"latents": (2, 2)}),
        ("top_down", {"top_down": {"z1": torch.nn.Identity()}}),
        ("condition", {"condition": 3}),
        ("norm", {"norm": torch.nn.LayerNorm}),
        ("decoder", {"decoder": None}),
        ("likelihood", {"likelihood": Gaussian("predicted"), "out": (D, 2)}),
        ("likelihood", {"likelihood": likelihoods.Laplace("learned")}),
    ],
)
def test_another_model_is_refused(x, argument, options):
    inputs = K + options.get("condition", 0)
    decoder = networks.Shortcut(
        inputs, options.pop("out", (D,)), networks.MLP((inputs,), (), (D,))
    )
    if isinstance(options.get("likelihood"), Gaussian):
        decoder = networks.Shortcut(K, (D, 2), networks.MLP((K,), (), (D, 2)))
    given = {"latents": K, "likelihood": Gaussian("learned"), "decoder": decoder, **options}
    vae = VAE((D,), **given)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=f"^{argument}: expected one layer of latents"):
        guides.linear_start(vae, x)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
