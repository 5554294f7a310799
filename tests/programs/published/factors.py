"""Words, counts and matrices: latents of all data beside those of each."""

from __future__ import annotations

import functools
import types

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from .pair import Pair


def lda_model(data, args, batch_size=None):
    """``examples/lda.py``: documents are the columns, topics of words are summed out."""
    with pyro.plate("topics", args.topics):
        weights = pyro.sample("topic_weights", dist.Gamma(1 / args.topics, 1.0))
        prior = dist.Dirichlet(torch.ones(args.words) / args.words)
        topic_words = pyro.sample("topic_words", prior)
    with pyro.plate("documents", data.shape[1], batch_size) as ind:
        data = data[:, ind]
        doc_topics = pyro.sample("doc_topics", dist.Dirichlet(weights))
        with pyro.plate("words", data.shape[0]):
            topic = dist.Categorical(doc_topics)
            k = pyro.sample("word_topics", topic, infer={"enumerate": "parallel"})
            pyro.sample("doc_words", dist.Categorical(topic_words[k]), obs=data)


def lda_guide(predictor, data, args, batch_size=None):
    ones = torch.ones(args.topics)
    weights = pyro.param("topic_weights_q", ones, constraint=constraints.positive)
    ones = torch.ones(args.topics, args.words)
    words = pyro.param("topic_words_q", ones, constraint=constraints.greater_than(0.5))
    with pyro.plate("topics", args.topics):
        pyro.sample("topic_weights", dist.Gamma(weights, 1.0))
        pyro.sample("topic_words", dist.Dirichlet(words))
    pyro.module("predictor", predictor)
    with pyro.plate("documents", data.shape[1], batch_size) as ind:
        words = nn.functional.one_hot(data[:, ind], args.words).sum(0).float()
        pyro.sample("doc_topics", dist.Delta(predictor(words), event_dim=1))


def lda():
    args = types.SimpleNamespace(topics=2, words=5)
    predictor = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Softmax(-1))
    kinds = torch.tensor([[5.0, 4, 1, 1, 1], [1.0, 1, 1, 4, 5]])
    words = dist.Categorical(kinds[torch.arange(24) % 2]).sample((10,))
    return Pair(
        lda_model,
        functools.partial(lda_guide, predictor),
        None,
        {"data": words, "args": args},
        plate="documents",
        elbo=lambda: TraceEnum_ELBO(max_plate_nesting=2),
        parts=(predictor,),
        minibatches=False,
    )


TOP, BOTTOM, PIXELS = 3, 2, 4


class SparseGamma:
    """``examples/sparse_gamma_def.py``: no module; weights of all, activations of each datum."""

    def model(self, x):
        with pyro.plate("w_plate", TOP * BOTTOM):
            w_top = pyro.sample("w_top", dist.Gamma(0.5, 0.5)).reshape(-1, TOP, BOTTOM)
        with pyro.plate("w_bottom_plate", BOTTOM * PIXELS):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(0.5, 0.3))
        with pyro.plate("data", len(x)):
            z_top = pyro.sample("z_top", dist.Gamma(0.8, 0.8).expand([TOP]).to_event(1))
            mean = (z_top[..., None, :] @ w_top).squeeze(-2) + 1e-3
            z = pyro.sample("z_bottom", dist.Gamma(0.8, 0.8 / mean).to_event(1))
            w_bottom = w_bottom.reshape(-1, BOTTOM, PIXELS)
            mean = (z[..., None, :] @ w_bottom).squeeze(-2) + 1e-3
            pyro.sample("obs", dist.Poisson(mean).to_event(1), obs=x)

    def guide(self, x):
        def gamma(name, *shape):
            shape_q = pyro.param(f"alpha_{name}", lambda: 0.5 + 0.1 * torch.randn(shape))
            mean_q = pyro.param(f"mean_{name}", lambda: 0.1 * torch.randn(shape))
            alpha, mean = softplus(shape_q) + 0.1, softplus(mean_q) + 0.1
            return dist.Gamma(alpha, alpha / mean)

        with pyro.plate("w_plate", TOP * BOTTOM):
            pyro.sample("w_top", gamma("w_top", TOP * BOTTOM))
        with pyro.plate("w_bottom_plate", BOTTOM * PIXELS):
            pyro.sample("w_bottom", gamma("w_bottom", BOTTOM * PIXELS))
        with pyro.plate("data", len(x)):
            pyro.sample("z_top", gamma("z_top", len(x), TOP).to_event(1))
            pyro.sample("z_bottom", gamma("z_bottom", len(x), BOTTOM).to_event(1))


def faces(n=10):
    rates = torch.tensor([[6.0, 5, 1, 1], [1.0, 1, 5, 6]])
    return torch.poisson(rates[torch.arange(n) % 2])


def sparse_gamma():
    pair, elbo = SparseGamma(), TraceMeanField_ELBO
    other = functools.partial(AutoNormal, pair.model)
    return Pair(pair.model, pair.guide, faces(), elbo=elbo, minibatches=False, other=other)


class SparseGammaGuide(EasyGuide):
    """The same model under ``pyro.contrib.easyguide``, which draws a group of sites as one."""

    def guide(self, x):
        group = self.group(match="w_.*")
        size = group.event_shape
        if not hasattr(self, "loc"):
            self.loc = nn.Parameter(torch.zeros(size))
            self.scale = PyroParam(torch.full(size, 0.3), constraint=constraints.positive)
        group.sample("weights", dist.Normal(self.loc, self.scale).to_event(1))
        with self.plate("data", len(x), subsample=x, dim=-1):
            for name, width in (("z_top", TOP), ("z_bottom", BOTTOM)):
                if not hasattr(self, name):
                    setattr(self, name, nn.Parameter(torch.zeros(len(x), width)))
                q = dist.LogNormal(getattr(self, name), 0.3)
                pyro.sample(name, q.to_event(1))


def easy_guide():
    model = SparseGamma().model
    guide = SparseGammaGuide(model)
    other = functools.partial(AutoNormal, model)
    return Pair(model, guide, faces(), parts=(guide,), minibatches=False, other=other)


def matrix_model(data, rank=2):
    """A matrix whose rows and columns are plates, as in the tutorial on shapes."""
    rows, columns = data.shape
    row_plate, column_plate = pyro.plate("rows", rows, dim=-2), pyro.plate("columns", columns)
    unit = dist.Normal(0.0, 1.0).expand([rank]).to_event(1)
    with row_plate:
        u = pyro.sample("u", unit)
    with column_plate:
        v = pyro.sample("v", unit)
    with row_plate, column_plate:
        pyro.sample("obs", dist.Normal((u * v).sum(-1), 0.5), obs=data)


def matrix_guide(data, rank=2):
    def normal(name, *shape):
        loc = pyro.param(f"{name}_loc", lambda: 0.3 * torch.randn(shape))
        ones = torch.ones(shape)
        scale = pyro.param(f"{name}_scale", 0.2 * ones, constraint=constraints.positive)
        return dist.Normal(loc, scale).to_event(1)

    with pyro.plate("rows", len(data), dim=-2):
        pyro.sample("u", normal("u", len(data), 1, rank))
    with pyro.plate("columns", data.shape[1]):
        pyro.sample("v", normal("v", data.shape[1], rank))


def matrix():
    data = torch.randn(8, 1) * torch.randn(5) + 0.3 * torch.randn(8, 5)
    return Pair(
        matrix_model,
        matrix_guide,
        data,
        {"rank": 2},
        minibatches=False,
        other=lambda: AutoNormal(matrix_model),
    )
