"""Regressions: real-valued y, parameters that are latents of all data, few data."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib import gp
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints
from torch.distributions.transforms import ExpTransform

from .pair import NormalHead, Pair, mlp

SCHOOLS = torch.tensor(
    [[28.0, 15], [8, 10], [-3, 16], [7, 11], [-1, 9], [1, 11], [18, 10], [12, 18]]
)


def schools_model(data):
    """``examples/eight_schools``: two latents of all schools, one of each."""
    y, sigma = data[:, 0], data[:, 1]
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(25.0))
    with pyro.plate("schools", len(data)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def schools_guide(data):
    def normal(name, *shape):
        loc = pyro.param(f"loc_{name}", lambda: 0.1 * torch.randn(shape))
        start = torch.full(shape, 0.3)
        return dist.Normal(
            loc, pyro.param(f"scale_{name}", start, constraint=constraints.positive)
        )

    pyro.sample("mu", normal("mu"))
    pyro.sample("tau", dist.TransformedDistribution(normal("logtau"), ExpTransform()))
    with pyro.plate("schools", len(data)):
        pyro.sample("eta", normal("eta", len(data)))


def eight_schools():
    return Pair(
        schools_model,
        schools_guide,
        SCHOOLS,
        minibatches=False,
        other=lambda: AutoNormal(schools_model),
    )


def baseball_model(at_bats, hits=None):
    """``examples/baseball.py``, partly pooled: a plate of fixed size over players."""
    m = pyro.sample("m", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("num_players", at_bats.shape[0]):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)


def baseball():
    at_bats = torch.full((8,), 45.0)
    hits = torch.tensor([18.0, 17, 16, 15, 14, 12, 10, 9])
    guide = AutoNormal(baseball_model)
    return Pair(baseball_model, guide, (at_bats, hits), parts=(guide,), minibatches=False)


def rugged_model(is_africa, ruggedness, log_gdp=None):
    """The tutorial on Bayesian regression: three arguments, all latents of all data."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b_a = pyro.sample("bA", dist.Normal(0.0, 1.0))
    b_r = pyro.sample("bR", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
    mean = a + b_a * is_africa + b_r * ruggedness
    with pyro.plate("data", len(ruggedness)):
        return pyro.sample("obs", dist.Normal(mean, sigma), obs=log_gdp)


def rugged_guide(is_africa, ruggedness, log_gdp=None):
    for name in ("a", "bA", "bR"):
        loc = pyro.param(f"{name}_loc", torch.tensor(0.0))
        start = torch.tensor(0.3)
        scale = pyro.param(f"{name}_scale", start, constraint=constraints.positive)
        pyro.sample(name, dist.Normal(loc, scale))
    loc = pyro.param("sigma_loc", torch.tensor(1.0), constraint=constraints.positive)
    pyro.sample("sigma", dist.Uniform(loc, loc + 0.05))


def line(n=24):
    x = torch.linspace(0, 2, n)
    return x, 1 + 2 * x + 0.3 * torch.randn(n)


def rugged():
    x, y = line()
    africa = (torch.arange(len(x)) % 2).float()
    return Pair(
        rugged_model, rugged_guide, (africa, x, y - africa), other=lambda: AutoNormal(rugged_model)
    )


class BayesianLinear(PyroModule):
    """``examples/svi_horovod.py`` and ``svi_torch.py``: ``PyroSample``, ``AutoNormal``."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 5.0).expand([1]).to_event(1))

    def forward(self, covariates, y=None):
        sigma = pyro.sample("sigma", dist.LogNormal(-1.0, 0.5))
        mean = self.linear(covariates).squeeze(-1)
        with pyro.plate("data", self.size, subsample=covariates):
            return pyro.sample("obs", dist.Normal(mean, sigma), obs=y)


def horovod():
    x, y = line()
    model = BayesianLinear(len(x))
    guide = AutoNormal(model)
    data = torch.stack([x, x.square()], -1), y
    return Pair(model, guide, data, parts=(model, guide))


def bayesian_linear():
    """The second tutorial on regression: one normal over all latents."""
    x, y = line()
    model = BayesianLinear(len(x))
    guide = AutoMultivariateNormal(model)
    data = torch.stack([x, x.square()], -1), y
    return Pair(model, guide, data, parts=(model, guide))


class Robust(nn.Module):
    """A regression whose noise has a scale of its own at each datum, y real-valued."""

    def __init__(self):
        super().__init__()
        self.mean, self.scales = nn.Linear(1, 1), NormalHead(2, 4, 1)
        self.raw = nn.Parameter(torch.tensor(-1.0))

    def model(self, x, y=None):
        pyro.module("robust", self)
        with pyro.plate("data", len(x)):
            width = pyro.sample("width", dist.Gamma(2.0, 2.0))
            noise = nn.functional.softplus(self.raw) * width
            mean = self.mean(x[:, None]).squeeze(-1)
            return pyro.sample("obs", dist.Normal(mean, noise), obs=y)

    def guide(self, x, y=None):
        pyro.module("robust", self)
        with pyro.plate("data", len(x)):
            loc, scale = self.scales(torch.stack([x, y], -1))
            pyro.sample("width", dist.LogNormal(loc.squeeze(-1), scale.squeeze(-1)))


def robust_regression():
    module = Robust()
    return Pair(module.model, module.guide, dict(zip("xy", line(), strict=True)), parts=(module,))


def coin_model(data):
    """The first tutorial on SVI: one latent, an observed site for each flip."""
    f = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
    for i in range(len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(f), obs=data[i])


def coin_guide(data):
    alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
    beta = pyro.param("beta_q", torch.tensor(15.0), constraint=constraints.positive)
    pyro.sample("latent_fairness", dist.Beta(alpha, beta))


def coin():
    flips = torch.tensor([1.0] * 8 + [0.0] * 2)
    return Pair(
        coin_model,
        coin_guide,
        None,
        {"data": flips},
        minibatches=False,
        other=lambda: AutoNormal(coin_model),
    )


def lkj_model(y):
    """``examples/lkj.py``: a covariance as a latent of all data."""
    d = y.shape[1]
    theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d)).to_event(1))
    factor = pyro.sample("L_omega", dist.LKJCholesky(d, 1.0))
    scale_tril = theta.sqrt().diag_embed() @ factor
    with pyro.plate("observations", len(y)):
        pyro.sample("obs", dist.MultivariateNormal(torch.zeros(d), scale_tril=scale_tril), obs=y)


def lkj():
    y = torch.randn(24, 2) @ torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    guide = AutoNormal(lkj_model)
    return Pair(lkj_model, guide, y, parts=(guide,))


def gplvm():
    """``pyro.contrib.gp.models.GPLVM`` itself: its methods take no data."""
    y = torch.stack([torch.linspace(-1, 1, 6) ** k for k in (1, 2, 3)])
    kernel = gp.kernels.RBF(input_dim=1, lengthscale=torch.ones(1))
    base = gp.models.SparseGPRegression(
        torch.linspace(-1, 1, 6)[:, None], y, kernel, torch.linspace(-1, 1, 3)[:, None]
    )
    module = gp.models.GPLVM(base)
    return Pair(module.model, module.guide, None, parts=(module,), minibatches=False)


def deep_kernel():
    """``examples/contrib/gp/sv-dkl.py``: a sparse Gaussian process on features of a network."""
    x = torch.linspace(-1, 1, 12)[:, None]
    y = (x.squeeze(-1) > 0).float()
    features = mlp(1, 3, 2, activation=nn.Tanh)
    kernel = gp.kernels.Warping(gp.kernels.RBF(input_dim=2), iwarping_fn=features)
    module = gp.models.VariationalSparseGP(
        x, y, kernel, Xu=torch.linspace(-1, 1, 3)[:, None], likelihood=gp.likelihoods.Binary()
    )
    other = functools.partial(AutoNormal, module.model)
    return Pair(module.model, module.guide, None, parts=(module,), minibatches=False, other=other)


def banana_model():
    """``examples/neutra.py``: a density to draw from, no data at all."""
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x.square(), 0.5))


def neutra():
    guide = AutoMultivariateNormal(banana_model)
    return Pair(banana_model, guide, None, parts=(guide,), minibatches=False)


def plane_model(observed):
    """``examples/inclined_plane.py``: a plate that is a loop."""
    mu = pyro.sample("mu", dist.Uniform(0.0, 1.0))
    for i in pyro.plate("trials", len(observed)):
        pyro.sample(f"obs_{i}", dist.Normal(2 / (1 + mu), 0.1), obs=observed[i])


def plane_guide(observed):
    loc = pyro.param("mu_q", torch.tensor(0.0))
    scale = pyro.param("mu_scale", torch.tensor(0.5), constraint=constraints.positive)
    to_unit = torch.distributions.SigmoidTransform()
    pyro.sample("mu", dist.TransformedDistribution(dist.Normal(loc, scale), to_unit))


def inclined_plane():
    times = 1.6 + 0.1 * torch.randn(6)
    return Pair(
        plane_model,
        plane_guide,
        None,
        {"observed": times},
        minibatches=False,
        other=lambda: AutoNormal(plane_model),
    )
