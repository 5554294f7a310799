"""Programs with as many sites as the longest sequence of a batch has steps."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae import Trainer, diagnostics, infer
from pyro_vae.data import Arguments
from pyro_vae.infer.posterior import posterior_means

N, B = 12, 4


class Chain(nn.Module):
    def __init__(self, steps=None):
        super().__init__()
        self.gain, self.steps = nn.Parameter(torch.tensor(0.4)), steps

    def run(self, x, lengths, guide):
        with pyro.plate("data", len(x)):
            for t in range(self.steps or int(lengths.max())):
                with poutine.mask(mask=t < lengths):
                    q = dist.Normal(self.gain * x[:, t], 0.8)
                    z = pyro.sample(f"z{t}", q if guide else dist.Normal(0.0, 1.0))
                    if not guide:
                        pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def model(self, x, lengths):
        self.run(x, lengths, guide=False)

    def guide(self, x, lengths):
        self.run(x, lengths, guide=True)


def sequences():
    """In order of their lengths, so that the first batch has the fewest sites."""
    lengths = torch.arange(1, 4).repeat_interleave(B)
    return torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), lengths


@pytest.mark.parametrize("batch_size", [B, N])
def test_an_evaluation_has_the_sites_of_all_batches(batch_size):
    (x, lengths), pair = sequences(), Chain()
    found = diagnostics.evaluate(
        pair.model, pair.guide, (x, lengths), batch_size=batch_size, importance_samples=0
    ).terms
    assert list(found.kl) == ["z0", "z1", "z2"]
    for t in range(3):
        assert (found.kl[f"z{t}"] != 0).tolist() == (t < lengths).tolist()
    # The bound in closed form, to whose mean that of many draws is close
    many = infer.elbo_terms(pair.model, pair.guide, (x, lengths), samples=400)
    m, s2 = 0.4 * x, 0.64
    terms = (
        -0.5 * ((x - m) ** 2 + s2) - 0.919 - 0.5 * (m**2 + s2 - 1) + 0.5 * torch.tensor(s2).log()
    )
    expected = torch.where(torch.arange(3) < lengths[:, None], terms, 0.0).sum(1)
    torch.testing.assert_close(many.elbo.mean(), expected.mean(), rtol=0, atol=0.1)


def test_a_trainer_and_its_validation_have_them(tmp_path):
    data, pair = sequences(), Chain()
    trainer = Trainer(pair.model, pair.guide)
    trainer.fit(
        data, epochs=2, batch_size=B, validation=data, progress=False, checkpoint=tmp_path, every=2
    )
    for row in (trainer.history[-1], trainer.history[-1]["validation"]):
        assert sorted(row["kl"]) == ["z0", "z1", "z2"]
        bound = row["reconstruction"] - sum(row["kl"].values())
        assert row["elbo"] == pytest.approx(bound, abs=1e-5)
        assert row["elbo"] == pytest.approx(row["objective"], abs=1e-4)


def test_means_are_those_of_the_data_that_have_them():
    (x, lengths), pair = sequences(), Chain()
    means = posterior_means(pair.guide, Arguments((x, lengths)), batch_size=B)
    for t in range(3):
        torch.testing.assert_close(
            means[f"z{t}"],
            torch.where(t < lengths, 0.4 * x[:, t], torch.nan),
            equal_nan=True,
        )


def test_comparing_all_with_all_needs_the_same_sites():
    data, pair = sequences(), Chain()
    with pytest.raises(ValueError, match=r"site 'z1': the guide draws it for some of the data"):
        diagnostics.collapse(pair.model, pair.guide, data, batch_size=B)
    padded = Chain(steps=3)
    found = diagnostics.collapse(padded.model, padded.guide, data, batch_size=B)
    assert sorted(found.sites) == ["z0", "z1", "z2"]
