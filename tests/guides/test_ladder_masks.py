"""A mask of a latent's own distribution hides it in a ladder as in the model."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import infer
from pyro_vae.guides import Ladder

X = torch.randn(12, generator=torch.Generator().manual_seed(0))
SHOWN = torch.arange(12) % 3 > 0
PRIORS = {
    "normal": lambda a, m: dist.Normal(a.expand(-1, 2), 1.0).mask(m).to_event(1),
    "normal in its coordinates": lambda a, m: (
        dist.LogNormal(a.expand(-1, 2), 1.0).mask(m).to_event(1)
    ),
    "no normal": lambda a, m: dist.Gamma(a.exp().expand(-1, 2), 1.0).mask(m).to_event(1),
    "as a whole": lambda a, m: dist.Dirichlet(a.exp().expand(-1, 2)).mask(m.squeeze(-1)),
}


def program(prior):
    def model(x, shown):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", PRIORS[prior](a[:, None], shown[:, None]))
            loc = torch.where(shown, z.sum(-1), a)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    return model


@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_hidden_has_no_part_in_the_bound(prior):
    torch.manual_seed(0)
    model = program(prior)
    guide = Ladder(model, like=(X, SHOWN), hidden=(4,))
    terms = infer.elbo_terms(model, guide, (X, SHOWN))
    assert (terms.kl["z"][~SHOWN] == 0).all() and (terms.kl["z"][SHOWN] != 0).all()
    for values in (terms.reconstruction, terms.kl["a"]):
        assert (values != 0).all()
