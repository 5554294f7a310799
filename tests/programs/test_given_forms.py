"""The forms in which a person has data, for programs of any signature: as stock Pyro, or told."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import Dataset as TorchDataset

from pyro_vae import Trainer, infer
from pyro_vae.data import Arguments, Dataset

N = 12
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
R = torch.randn(N, generator=torch.Generator().manual_seed(2))
L = torch.arange(N) % 3


def pair(signature, body="pass"):
    """Programs of a signature; ``body`` finds x and r among their arguments."""
    code = f"""
def model({signature}):
    {body}
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("r", dist.Normal(z + x.sum(-1), 1.0), obs=r.to(x.dtype))

def guide({signature}):
    {body}
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.mean(-1) + r, 1.0))
"""
    found = {"pyro": pyro, "dist": dist}
    exec(code, found)
    return found["model"], found["guide"]


def elbo(programs, data, **options):
    pyro.set_rng_seed(0)
    return float(infer.elbo_terms(*programs, data, **options).elbo.mean())


def stock(programs, *args, **kwargs):
    pyro.set_rng_seed(0)
    return -Trace_ELBO().loss(*programs, *args, **kwargs) / N


CASES = [
    ("target, data", "x, r = data, target", {"data": X, "target": R}, (), True),
    ("y, x", "r = y", {"x": X, "y": R}, (), True),
    ("y, x", "r = y", {"x": X, "y": L}, (), True),
    ("y, x", "r = y", (R, X), (R, X), False),
    ("y, x", "r = y", (L, X), (L, X), False),
    ("**given", "x, r = given['x'], given['y']", {"x": X, "y": R}, (), True),
    ("x, r, y=None", "pass", (X, R), (X, R), False),
    ("x, r, y=None", "pass", (X, L), (X, L), False),
    ("x, r=None, y=None", "pass", (X, R), (X, R), False),
    ("x, y=None", "r = y", (X, R.tolist()), (X, R), False),
    ("r", "x = r[:, None]", R.numpy(), (R,), False),
    ("r", "x = r[:, None]", R.tolist(), (R,), False),
    ("x, r", "pass", [X, R], (X, R), False),
]


@pytest.mark.parametrize(("signature", "body", "data", "args", "named"), CASES)
def test_data_are_given_as_by_stock_pyro(signature, body, data, args, named):
    programs = pair(signature, body)
    expected = stock(programs, *args, **(data if named else {}))
    assert elbo(programs, data) == pytest.approx(expected, rel=1e-5)


def test_labels_that_no_argument_has_for_sure_are_told():
    keyword = pair("x, *, labels=None", "r = x[:, 0] if labels is None else labels")
    with pytest.raises(TypeError, match=r"program that takes labels=None, got a Dataset with"):
        Trainer(*keyword).fit(Dataset(X, L), epochs=1, progress=False)
    rest = pair("x, *rest", "r = x[:, 0]")
    with pytest.raises(TypeError, match=r"program that takes \*rest, got a Dataset with labels"):
        elbo(rest, Dataset(X, L))
    either = pair("x, mask=None, y=None", "r = x[:, 0]")
    with pytest.raises(TypeError, match=r"expected names .* may be 'mask' or 'y', got a tuple"):
        elbo(either, (X, L))
    with pytest.raises(TypeError, match="got the argument 'y' besides"):
        elbo(pair("x, scale=1.0", "r = x[:, 0]"), {"x": X, "y": L})


@pytest.mark.parametrize("data", [(X, R), {"x": X, "r": R}])
def test_a_constant_that_data_have_as_well_is_told(data):
    with pytest.raises(TypeError, match="constants that the data do not have, got 'r'"):
        elbo(pair("x, r"), data, arguments={"r": R + 1})


class Items(TorchDataset):
    def __init__(self, item):
        self.item, self.read = item, 0

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.read += 1
        return self.item(i)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 2)

    def model(self, x, r, width=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("r", dist.Normal(z + x.sum(-1), width), obs=r.to(x.dtype))

    def guide(self, x, r):
        loc, scale = self.encoder(torch.cat([x, r.to(x.dtype)[:, None]], -1)).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()))


def fitted(data, **options):
    torch.manual_seed(0)
    both = Both()
    trainer = Trainer(both.model, both.guide, seed=0, lr=1e-2)
    trainer.fit(data, **{"epochs": 2, "batch_size": 5, "progress": False, **options})
    return trainer


@pytest.mark.parametrize(
    "item",
    [
        lambda i: (X[i], R[i]),
        lambda i: (X[i].numpy(), float(R[i])),
        lambda i: {"x": X[i], "r": R[i]},
    ],
)
def test_items_of_torch_are_columns(item):
    data = Items(item)
    assert fitted(data).history[-1]["elbo"] == fitted((X, R)).history[-1]["elbo"]
    assert data.read <= N + 2


def test_labels_of_items_are_the_second_argument():
    data = Items(lambda i: (X[i], int(L[i])))
    assert fitted(data).history[-1]["elbo"] == fitted((X, L)).history[-1]["elbo"]


@pytest.mark.parametrize(
    ("first", "then"), [({"width": 2.0}, None), ({"width": 2.0}, {"width": 1.0})]
)
def test_a_run_goes_on_with_its_own_constants_alone(tmp_path, first, then):
    fitted((X, R), arguments=first, checkpoint=tmp_path)
    both = Both()
    again = Trainer.resume(tmp_path, model=both.model, guide=both.guide)
    with pytest.raises(ValueError, match=r"data: width: expected '2.0', as in the run that goes"):
        again.fit((X, R), arguments=then, epochs=3, progress=False)


class Width:
    value = 1.0


class Wide(Both):
    def model(self, x, r, width):
        return super().model(x, r, width.value)


def test_an_object_that_changes_is_not_recorded():
    both, width, losses = Wide(), Width(), []
    svi = infer.SVI(both.model, both.guide, engine="graph")
    with pytest.warns(UserWarning, match="constants among its arguments cannot be told"):
        svi.step(X, R, width=width)
        svi.step(X, R, width=width)
    for width.value in (1.0, 100.0):
        losses.append(float(svi.step(X, R, width=width)))
    assert losses[1] > losses[0] + N


def test_data_that_have_a_gradient_are_no_parameters():
    data = nn.Parameter(X.clone())

    class Reading(Both):
        def __init__(self):
            super().__init__()
            self.held = [data]

    both = Reading()
    infer.SVI(both.model, both.guide).step(data, R)


class Wider(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x, r, more):
        loc = self.linear(torch.cat([x, more[:, None]], -1)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0))


@pytest.mark.filterwarnings("ignore::pyro_vae.infer.UntrainedWarning")
def test_a_guide_that_needs_more_is_tried_with_the_next_data():
    trainer, guide = fitted((X, R)), Wider()
    trainer.swap_guide(guide)
    with pytest.raises(TypeError, match="expected 'more' as well for Wider"):
        trainer.fit(Arguments((X, R)), epochs=1, progress=False)
    before = guide.linear.weight.clone()
    trainer.fit({"x": X, "r": R, "more": R}, epochs=1, progress=False)
    assert not torch.equal(guide.linear.weight, before)


@pytest.mark.parametrize("validation", [X, (X[:, :2], R), Dataset(X)])
def test_validation_data_that_do_not_fit_are_told_before_the_first_step(validation):
    both = Both()
    trainer = Trainer(both.model, both.guide, seed=0)
    with pytest.raises((TypeError, RuntimeError), match=r"more than x|cannot be multiplied"):
        trainer.fit((X, R), validation=validation, epochs=1, progress=False)
    assert trainer.step == 0 and trainer.history == []
