"""``like=`` takes what data come in: a tensor, a ``Dataset``, all that ``data.load`` gives."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import data, infer, plots


class Program(nn.Module):
    """Two latents and no method ``sample``; with labels a shift of the data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 12)

    def forward(self, x, *, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.layer(z) + (0 if y is None else y[:, None])
            p_x = dist.Normal(loc.reshape(*z.shape[:-1], *x.shape[1:]), 0.1)
            return pyro.sample("x", p_x.to_event(x.dim() - 1), obs=x)


SHAPES = {"signal": (2, 6), "video": (1, 3, 2, 2), "image": (1, 3, 4)}
DRAWN = {
    "samples": lambda like: plots.samples(Program(), 4, like=like),
    "conditional": lambda like: plots.conditional(Program(), classes=[0, 1], n=2, like=like),
    "layer_samples": lambda like: plots.layer_samples(Program(), "z", rows=1, like=like),
    "latent_grid": lambda like: plots.latent_grid(Program(), like=like, site="z", steps=2),
}


def drawn(name, like):
    torch.manual_seed(0)
    figure = DRAWN[name](like).figure
    figure.canvas.draw()
    return torch.tensor(np.asarray(figure.canvas.buffer_rgba()))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", DRAWN)
def test_pictures_of_a_data_set_are_those_of_its_tensor(name, kind):
    x = torch.rand(8, *SHAPES[kind])
    one = x[:1].clone()
    one.kind = kind
    of_set = data.Dataset(x, kind=kind)
    splits = data.DataSplits(train=of_set, test=of_set, name="own")
    expected = drawn(name, one)
    for like in (of_set, splits):
        torch.testing.assert_close(drawn(name, like), expected, rtol=0, atol=0)


def test_a_grid_of_means_takes_a_data_set():
    program, x = Program(), torch.rand(8, 2, 6)
    grids = [infer.grid_2d(program, like=v, site="z", steps=3) for v in (x, data.Dataset(x))]
    torch.testing.assert_close(*grids, rtol=0, atol=0)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("like", [[0.0], "x", data.Arguments(torch.zeros(3, 2, 6))])
def test_anything_else_is_refused_by_name(name, like):
    with pytest.raises(TypeError, match="like: expected a tensor"):
        DRAWN[name](like)
