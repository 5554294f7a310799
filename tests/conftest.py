"""Every test: its own random stream, an empty param store, validation on, one thread.

The stream's seed is PYRO_VAE_TEST_SEED, by default 0: a test passes under every seed.
"""

import collections
import gc
import math
import os

import matplotlib
import matplotlib.pyplot as plt
import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.guides import BottomUp
from pyro_vae.infer import Graph
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

matplotlib.use("Agg")
torch.set_num_threads(1)
for device in (torch.cuda, torch.xpu, torch.mtia):
    if not device.is_available():
        # A seed for a device that may come is kept with a traceback: 5 % of the time of all tests
        device.manual_seed_all = lambda seed: None
# Of several, no two can be searched for doctests
collect_ignore_glob = ["*conftest.py"]
# Files of tests of up to a minute each: at the end, they would leave all workers but one idle
LONG = ("test_notebooks.py", "test_types.py", "test_site.py")


class Session:
    """What holds for examples in docstrings, too: no test leaves a figure open."""

    @staticmethod
    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(items):
        items.sort(key=lambda item: item.path.name not in LONG)

    @staticmethod
    def pytest_collection_finish(session):
        # A million objects of modules and tests, which stay, cost each collection a second
        gc.freeze()

    @staticmethod
    def pytest_runtest_teardown(item):
        plt.close("all")


def pytest_configure(config):
    # A hook of this file would not be called for what is outside of this folder
    config.pluginmanager.register(Session())


@pytest.fixture(autouse=True)
def isolated():
    pyro.clear_param_store()
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(True):
        pyro.set_rng_seed(int(os.environ.get("PYRO_VAE_TEST_SEED", 0)))
        yield
    pyro.clear_param_store()


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are made while the test runs, whoever holds them, by class."""
    made, init = collections.defaultdict(list), Graph.__init__

    def noted(self, *args, **options):
        made[type(self)].append(self)
        init(self, *args, **options)

    monkeypatch.setattr(Graph, "__init__", noted)
    return made


class LinearGaussian:
    """z ~ N(0, I), x|z ~ N(W z + b, sigma^2 I): evidence, posterior and bound are closed forms.

    The columns of W are orthogonal, so that the exact posterior is a diagonal normal.
    """

    sigma = 0.7

    def __init__(self):
        self.vae = VAE((6,), latents=2, likelihood=Gaussian(self.sigma), hidden=())
        layer = self.vae.decoder.layers[0]
        with torch.no_grad():
            layer.weight.copy_(torch.linalg.qr(torch.randn(6, 2)).Q * torch.tensor([1.5, 0.8]))
            layer.bias.copy_(torch.randn(6))
        self.W, self.b = layer.weight.detach().clone(), layer.bias.detach().clone()
        self.precision = 1 + self.W.square().sum(0) / self.sigma**2

    def guide(self, *, shift=0.0, widen=1.0):
        """A guide at the exact posterior, mean moved by ``shift``, sd times ``widen``."""
        guide = BottomUp(self.vae)
        head = guide.conditionals["z1"]
        gain = self.W.T / self.sigma**2 / self.precision[:, None]
        sd = widen * self.precision.rsqrt() - head.min_scale
        with torch.no_grad():
            head.loc.weight.copy_(gain)
            head.loc.bias.copy_(-gain @ self.b + shift)
            head.raw_scale.weight.zero_()
            head.raw_scale.bias.copy_(sd.expm1().log())
        return guide

    def posterior(self, x):
        """Mean (n, 2) and standard deviation (2,) of p(z|x)."""
        mean = (x - self.b) @ self.W / self.sigma**2 / self.precision
        return mean, self.precision.rsqrt()

    def evidence(self):
        covariance = self.W @ self.W.T + self.sigma**2 * torch.eye(6)
        return MultivariateNormal(self.b, covariance)

    def data(self, n):
        return self.evidence().sample((n,))

    def reconstruction(self, x, mean, sd):
        """E[log p(x|z)] for z ~ N(mean, sd^2), (n,)."""
        square = (x - mean @ self.W.T - self.b).square().sum(-1)
        spread = sd.square().expand_as(mean) @ self.W.square().sum(0)
        constant = 6 * math.log(2 * math.pi * self.sigma**2)
        return -0.5 * ((square + spread) / self.sigma**2 + constant)

    def bound(self, guide, x):
        """The evidence lower bound of a diagonal normal guide, (n,)."""
        q = guide.conditionals["z1"](x)
        return (self.reconstruction(x, q.mean, q.stddev) - self.kl(q.mean, q.stddev)).detach()

    @staticmethod
    def kl(mean, sd):
        """KL(N(mean, sd^2) || N(0, I)), (n,)."""
        return 0.5 * (mean.square() + sd.square() - 2 * sd.log() - 1).sum(-1)


@pytest.fixture
def linear():
    return LinearGaussian()
