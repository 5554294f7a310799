import pytest
import torch
from torch import nn

from pyro_vae import Trainer
from pyro_vae.guides import BottomUp
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.networks import MLP, ConvDecoder, ConvEncoder, LeakyReLU, Normalized


def test_rows_are_all_dimensions_but_the_features():
    h = 3 * torch.randn(5, 7, 4) + 1
    expected = nn.BatchNorm1d(4)(h.reshape(35, 4)).reshape(5, 7, 4)
    torch.testing.assert_close(Normalized(nn.BatchNorm1d, 4)(h), expected)
    torch.testing.assert_close(Normalized(nn.LayerNorm, 4)(h), nn.LayerNorm(4)(h))


def test_channels_of_images_are_normalised_as_torch_does_for_images():
    images = torch.randn(5, 3, 6, 4)
    ours, theirs = Normalized(nn.BatchNorm1d, 3, dim=1), nn.BatchNorm2d(3)
    torch.testing.assert_close(ours(images), theirs(images))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours.norm, name), getattr(theirs, name))
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("network", "x", "expected"),
    [
        (MLP((6,), (8, 7), (5,), norm=nn.BatchNorm1d), torch.randn(9, 6), [8, 7]),
        (MLP((6,), (8, 7), norm=nn.BatchNorm1d), torch.randn(9, 6), [8, 7]),
        (
            ConvEncoder((1, 8, 8), channels=(3, 4), features=10, norm=nn.BatchNorm1d),
            torch.randn(9, 1, 8, 8),
            [3, 4, 10],
        ),
        (
            ConvDecoder(
                2, (1, 8, 8), event_dim=3, channels=(3, 4), features=10, norm=nn.BatchNorm1d
            ),
            torch.randn(9, 2),
            [10, 4, 3],
        ),
    ],
)
def test_every_hidden_layer_and_no_output_is_normalised(network, x, expected):
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [m.num_features for m in norms] == expected
    network(x)
    assert all(m.num_batches_tracked == 1 for m in norms)


def test_the_model_says_what_its_guides_use():
    options = {"likelihood": Gaussian(), "hidden": (8,)}
    for norm, count in ((nn.BatchNorm1d, 10), (nn.LayerNorm, 10), (None, 0)):
        vae = VAE((6,), (4, 3), norm=norm, **options)
        guide = BottomUp(vae)
        kinds = nn.BatchNorm1d if norm is None else norm
        found = [m for p in (vae, guide) for m in p.modules() if isinstance(m, kinds)]
        # hidden: 2 of p, 2 of q; heads: 2 of p(z1|z2), 4 of q
        assert len(found) == count
    assert not any(isinstance(m, nn.BatchNorm1d) for m in vae.decoder.layers.modules())


def test_evaluation_uses_frozen_statistics():
    vae = VAE((1, 8, 8), (4, 3), norm=nn.BatchNorm1d, likelihood=Bernoulli())
    guide = BottomUp(vae)
    x = torch.randint(2, (40, 1, 8, 8)).float()
    trainer = Trainer(vae, guide, seed=0).fit(x, epochs=2, progress=False, batch_size=20)
    before = {k: v.clone() for p in (vae, guide) for k, v in p.state_dict().items()}
    together = guide.encode(x).mean["z1"]
    apart = torch.cat([guide.encode(x[i : i + 1]).mean["z1"] for i in range(40)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
    after = {k: v for p in (vae, guide) for k, v in p.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert trainer.model.training


def test_a_single_datum_has_no_variance():
    vae = VAE((6,), 2, norm=nn.BatchNorm1d, likelihood=Gaussian(), hidden=(8,))
    with pytest.raises(ValueError, match="BatchNorm in training mode expects at least 2 data"):
        vae.train()(torch.randn(1, 6))


@pytest.mark.parametrize("bad", [nn.BatchNorm1d(3), "batch", torch.relu, 3])
def test_bad_norms_are_refused_with_the_fix(bad):
    with pytest.raises(TypeError, match=r"norm: expected a class or function .*BatchNorm1d"):
        VAE((6,), 2, likelihood=Gaussian(), norm=bad)


def test_slopes():
    assert torch.equal(LeakyReLU(0.1)()(torch.tensor([-1.0, 2.0])), torch.tensor([-0.1, 2.0]))
