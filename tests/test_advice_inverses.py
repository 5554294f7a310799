"""What is said about densities without an inverse, and parts that no file takes."""

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from torch import nn

from pyro_vae import Trainer, diagnostics, guides, infer, likelihoods, load, models, save
from pyro_vae.programs.sites import compute_log_probs

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
cases = Cases()


class Model(nn.Module):
    """A linear one that means something else by "latents"."""

    def __init__(self):
        super().__init__()
        self.latents, self.weights = 2, nn.Linear(2, 3)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.weights(z), 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    """A normal, through a transform."""

    def __init__(self, transform):
        super().__init__()
        self.means, self.transform = nn.Linear(3, 2), transform

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(self.means(x), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [self.transform]))


def trained(transform, elbo):
    return lambda: Trainer(Model(), Guide(transform), elbo=elbo).fit(
        X, epochs=1, batch_size=10, progress=False
    )


def density_of_an_older_draw(transform):
    """Log q(z) of a run of the guide after which there has been another one."""
    guide = Guide(transform)
    trace = pyro.poutine.trace(guide).get_trace(X)
    guide(X)
    compute_log_probs(trace, ["z"])
    return trace.nodes["z"]["log_prob"]


@cases
def inverses(tmp):
    one = dist.transforms.affine_autoregressive(2, hidden_dims=[8])
    pair = Model(), Guide(dist.transforms.Planar(2))
    yield (
        lambda: density_of_an_older_draw(dist.transforms.Planar(2)),
        lambda: density_of_an_older_draw(one),
        trained(dist.transforms.Planar(2), "trace"),
        lambda: diagnostics.evaluate(*pair, X, importance_samples=0),
    )


@cases
def parts_of_files(tmp):
    vae = models.VAE((3,), 2, likelihood=likelihoods.Gaussian(), hidden=())
    guide = guides.BottomUp(vae)
    save(guide, tmp / "guide.pt")
    for name, part in {"optimizer": torch.optim.SGD, "elbo": infer.TraceELBO()}.items():

        def kept(name=name, part=part):
            return Trainer(vae, load(tmp / "guide.pt", model=vae), **{name: part})

        yield lambda n=name, p=part: load(tmp / "guide.pt", **{n: p}), kept


def test_beta_of_a_program_with_other_latents():
    fitted = Trainer(Model(), Guide(dist.transforms.Planar(2)), beta={"z": 0.5})
    assert fitted.fit(X, epochs=1, progress=False).history[-1]["beta"] is not None


test_advice = cases.test()
