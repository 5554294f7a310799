"""What a fitted prior gains on real digits."""

import os
import time
from pathlib import Path

import pytest
import torch

from pyro_vae import Trainer, data, diagnostics, guides, handlers, infer, likelihoods, models
from pyro_vae import priors as p

ROOT = os.environ.get("PYRO_VAE_DATA")

pytestmark = pytest.mark.skipif(
    ROOT is None or not Path(ROOT, "MNIST", "raw").is_dir(),
    reason="set PYRO_VAE_DATA to a folder with MNIST in torchvision's layout",
)


@pytest.mark.slow
def test_fitted_priors_give_better_samples_and_a_better_bound(capsys, tmp_path):
    d = data.load("mnist")
    torch.manual_seed(0)
    vae = models.VAE(
        d.event_shape, latents=16, hidden=(256, 256), likelihood=likelihoods.Bernoulli()
    )
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
    trainer.fit(d.train, epochs=6, progress=False)
    guide, n = trainer.guide, 10_000
    features = diagnostics.ClassifierFeatures.fit(d, cache=tmp_path)
    lines, distances, bounds = [repr(features)], {}, {}
    fits = {
        "N(0, I)": lambda: None,
        "AggregatePosterior": lambda: p.AggregatePosterior(10).fit(vae, guide, d.train),
        "FlowPrior": lambda: p.FlowPrior(16).fit(vae, guide, d.train, epochs=5),
        "TwoStage": lambda: p.TwoStage(16).fit(vae, guide, d.train, epochs=10),
    }
    for name, fit in fits.items():
        started = time.perf_counter()
        prior = fit()
        seconds = time.perf_counter() - started
        torch.manual_seed(1)
        found = diagnostics.frechet_distance(d, vae.sample(n, prior=prior), features=features)
        distances[name] = float(found)
        if name == "TwoStage":
            pair = prior.stack(vae, guide)
        else:
            pair = (handlers.replace_prior(vae, prior) if prior else vae), guide
        bounds[name] = float(infer.elbo_terms(*pair, d.test.x[:5000]).elbo.mean())
        lines.append(
            f"{name:<20} Frechet {distances[name]:8.3f}   test bound {bounds[name]:9.3f}   "
            f"fitted in {seconds:.0f} s"
        )
    half = d.test.x[::2], d.test.x[1::2]
    floor = diagnostics.frechet_distance(*half, features=features)
    lines.append(f"{'half the test set':<20} Frechet {float(floor):8.3f}\n{found!r}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert features.accuracy > 0.97
    for name in ("AggregatePosterior", "FlowPrior", "TwoStage"):
        assert distances[name] < distances["N(0, I)"]
    for name in ("AggregatePosterior", "FlowPrior"):
        assert bounds[name] > bounds["N(0, I)"]
