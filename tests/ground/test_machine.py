"""Threads of a run."""

import pytest
import torch

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.models import VAE


def trainer():
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return Trainer(vae, guides.BottomUp(vae), seed=0)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_hold_for_the_run_and_no_longer(fails):
    before, seen = torch.get_num_threads(), []

    class Look:
        def on_epoch_end(self, trainer, **kwargs):
            seen.append(torch.get_num_threads())
            if fails:
                raise RuntimeError("stop")

    def run():
        trainer().fit(torch.randn(8, 6), epochs=1, threads=3, callbacks=[Look()], progress=False)

    if fails:
        with pytest.raises(RuntimeError, match="stop"):
            run()
    else:
        run()
    assert seen == [3] and torch.get_num_threads() == before != 3


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_bad_threads(threads):
    with pytest.raises(ValueError, match=r"threads: expected a whole number of at least 1, got"):
        trainer().fit(torch.randn(8, 6), epochs=1, threads=threads)
