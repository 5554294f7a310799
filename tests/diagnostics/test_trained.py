"""What the diagnostics say of small trained pairs."""

import pytest
import torch

from pyro_vae import Trainer, data, diagnostics, guides, likelihoods
from pyro_vae.models import VAE, PixelDecoder

DIGITS = data.load("digits", binarize="static")


def pixel_pair(skip, seed):
    """Eight masked layers: each pixel of an 8 x 8 image sees all before it."""
    torch.manual_seed(seed)
    decoder = PixelDecoder(DIGITS.event_shape, 8, skip=skip, width=16, layers=8)
    vae = VAE(
        DIGITS.event_shape,
        8,
        likelihood=likelihoods.Bernoulli(),
        decoder=decoder,
        hidden=(128,),
    )
    return vae, guides.BottomUp(vae)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_strong_decoder_without_skip_connections_collapses_and_with_them_does_not(seed):
    """Early in training: at this small scale the latents come back some epochs later."""
    found = {}
    for skip in (False, True):
        vae, guide = pixel_pair(skip, seed)
        trainer = Trainer(vae, guide, elbo="analytic", lr=3e-3, seed=seed)
        trainer.fit(DIGITS.train, epochs=4, batch_size=64, progress=False)
        found[skip] = diagnostics.collapse(vae, guide, DIGITS.test, threshold=0.02)
    assert found[False].verdict.startswith("z1 collapsed: 0 of 8 units active")
    assert found[True].collapsed == () and found[True].units["z1"].active >= 4
    without, with_skip = (f.whole.mutual_information for f in found.values())
    error = float((without.var() / len(without) + with_skip.var() / len(with_skip)).sqrt())
    assert float(with_skip.mean() - without.mean()) > 2 * error


@pytest.mark.slow
def test_outliers_of_a_class_that_was_held_out_and_of_flipped_pixels():
    train, test = (d[d.y != 9] for d in (DIGITS.train, DIGITS.test))
    torch.manual_seed(0)
    vae = VAE(DIGITS.event_shape, 6, likelihood=likelihoods.Bernoulli(), hidden=(128,))
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
    trainer.fit(train, epochs=60, batch_size=64, progress=False)
    flipped = (test.x - (torch.rand_like(test.x) < 0.2).float()).abs()
    kinds = {"class 9": DIGITS.test[DIGITS.test.y == 9], "flipped": flipped}
    found = diagnostics.outliers(vae, trainer.guide, test, kinds, reference=train)
    for score in ("-ELBO", "-log p(x)"):
        area, error = found.auroc["class 9"][score]
        assert area - 2 * error > 0.5
        assert found.auroc["flipped"][score][0] > 0.95
    rare = diagnostics.rarity(vae, trainer.guide, test, reference=train)
    assert rare.representative
