"""Programs of several modalities; of one of them, linear and Gaussian, all is known."""

import itertools

import pyro
import pyro.distributions as dist
import torch
from torch import nn

N = 12
NAMES = ("a", "b", "c")


def batch(*values):
    """The number of data, by whatever is there."""
    return len(next(v for v in values if v is not None))


class Linear(nn.Module):
    """z ~ N(m, s^2) of 2 elements; each modality is W_m z + b_m + noise, with a diagonal W_m.

    The likelihood of each is a normal of independent elements of z, and so is each posterior.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.m, self.s = torch.tensor([0.5, -1.0]), torch.tensor([1.5, 0.7])
        self.W, self.b = torch.randn(3, 2), torch.randn(3, 2)
        self.sigma = torch.tensor([0.4, 0.8, 1.2])

    def forward(self, a=None, b=None, c=None):
        given = {"a": a, "b": b, "c": c}
        with pyro.plate("data", batch(a, b, c)):
            z = pyro.sample("z", dist.Normal(self.m, self.s).to_event(1))
            for i, (name, value) in enumerate(given.items()):
                if value is not None:
                    p = dist.Normal(self.W[i] * z + self.b[i], self.sigma[i]).to_event(1)
                    pyro.sample(name, p, obs=value)

    def data(self, n=N):
        """Some from the model."""
        z = self.m + self.s * torch.randn(n, 2)
        x = self.W * z.unsqueeze(1) + self.b + self.sigma.unsqueeze(1) * torch.randn(n, 3, 2)
        return dict(zip(NAMES, x.unbind(1), strict=True))

    def exact(self, data):
        """Mean and scale of p(z|x_S), and log p(x_S), of rows (n, 2) of which some are NaN."""
        rows = torch.stack([data.get(n, torch.full((N, 2), torch.nan)) for n in NAMES], 1).double()
        evidence, mean, scale = [], [], []
        for row in rows:
            seen = ~row.isnan().any(1)
            W, b = self.W[seen].double(), self.b[seen].double()
            sigma = self.sigma[seen].double().unsqueeze(1)
            precision = self.s.double() ** -2 + (W / sigma).square().sum(0)
            pull = self.m / self.s.double() ** 2 + (W * (row[seen] - b) / sigma**2).sum(0)
            mean.append(pull / precision)
            scale.append(precision**-0.5)
            log_p = torch.zeros(()).double()
            for d in range(2):
                cov = self.s[d].double() ** 2 * torch.outer(W[:, d], W[:, d])
                cov = cov + torch.diag(sigma[:, 0] ** 2)
                loc = W[:, d] * self.m[d] + b[:, d]
                if len(loc):
                    log_p = log_p + dist.MultivariateNormal(loc, cov).log_prob(row[seen, d])
            evidence.append(log_p)
        return torch.stack(mean), torch.stack(scale), torch.stack(evidence)


class Likelihood(nn.Module):
    """A guide: the likelihood of a modality as a normal of z, or its posterior."""

    def __init__(self, of, name, *, posterior=False):
        super().__init__()
        self.held, self.i, self.name, self.posterior = (of,), NAMES.index(name), name, posterior

    def forward(self, a=None, b=None, c=None):
        (of,), i = self.held, self.i
        x = {"a": a, "b": b, "c": c}[self.name]
        loc, scale = (x - of.b[i]) / of.W[i], of.sigma[i] / of.W[i].abs()
        if self.posterior:
            precision = scale**-2 + of.s**-2
            loc, scale = (loc / scale**2 + of.m / of.s**2) / precision, precision**-0.5
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.expand_as(loc)).to_event(1))


SUBSETS = [s for k in (1, 2, 3) for s in itertools.combinations(NAMES, k)]


class Pictures(nn.Module):
    """Vectors with a class each, and a latent whose values are networks' inputs."""

    def __init__(self, pixels=6, classes=3, size=2):
        super().__init__()
        self.size = size
        self.image, self.label = nn.Linear(size, pixels), nn.Linear(size, classes)

    def forward(self, image=None, label=None):
        prior = dist.Normal(torch.zeros(self.size), 1.0).to_event(1)
        with pyro.plate("data", batch(image, label)):
            z = pyro.sample("z", prior)
            pyro.sample("image", dist.Normal(self.image(z), 0.5).to_event(1), obs=image)
            pyro.sample("label", dist.Categorical(logits=self.label(z)), obs=label)


def pictures(n=N):
    """Vectors, and labels that tell where they are."""
    torch.manual_seed(1)
    label = torch.arange(n) % 3
    return {"image": torch.randn(n, 6) + 2 * label.unsqueeze(1), "label": label}
