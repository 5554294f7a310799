"""What comes to train after the first step, and what nothing trains."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from test_svi import flat, user_model
from torch import nn

from pyro_vae.infer import SVI, UntrainedWarning


def changes(svi, x, *programs):
    """Which parameters of some programs a step moves."""
    before = [p.detach().clone() for m in programs for p in m.parameters()]
    svi.step(x)
    now = [p for m in programs for p in m.parameters()]
    return [not torch.equal(a, b) for a, b in zip(before, now, strict=True)]


ENGINES = pytest.mark.parametrize("engine", ["eager", "graph"])


@ENGINES
def test_what_is_unfrozen_or_replaced_later_trains_from_then_on(pair, engine):
    vae, guide = pair
    vae.decoder.requires_grad_(False)
    svi, x = SVI(vae, guide, engine=engine), torch.randn(5, 6)
    for _ in range(3):
        assert not any(changes(svi, x, vae.decoder))
    vae.decoder.requires_grad_(True)
    assert all(changes(svi, x, vae, guide))
    vae.decoder = copy.deepcopy(vae.decoder)
    guide.conditionals["z2"] = copy.deepcopy(guide.conditionals["z2"])
    for _ in range(3):
        assert all(changes(svi, x, vae, guide))


@ENGINES
def test_late_parameters_train_as_under_stock_pyro(pair, engine):
    """Their moments begin at their first step; those of the others go on."""
    twins, x = copy.deepcopy(pair), torch.randn(7, 20, 6)
    svi = SVI(*pair, functools.partial(torch.optim.Adam, lr=1e-2), engine=engine)
    reference = pyro.infer.SVI(*twins, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for model, take in ((pair[0], svi.step), (twins[0], reference.step)):
        with torch.random.fork_rng():
            model.decoder.requires_grad_(False)
            for i, batch in enumerate(x):
                if i == 3:
                    model.decoder.requires_grad_(True)
                if i == 5:
                    model.conditionals["z1"] = copy.deepcopy(model.conditionals["z1"])
                take(batch)
    torch.testing.assert_close(flat(*pair), flat(*twins), rtol=1e-5, atol=1e-7)


def test_a_late_parameter_gets_the_options_of_its_group(pair):
    vae, guide = pair

    def groups(parameters):
        matrices = [p for p in parameters if p.dim() > 1]
        others = [p for p in parameters if p.dim() < 2]
        return torch.optim.SGD([{"params": matrices}, {"params": others, "lr": 0.0}], lr=0.1)

    vae.decoder.requires_grad_(False)
    svi, x = SVI(vae, guide, groups), torch.randn(5, 6)
    svi.step(x)
    vae.decoder.requires_grad_(True)
    moved = changes(svi, x, vae.decoder)
    assert moved == [p.dim() > 1 for p in vae.decoder.parameters()]


@pytest.mark.parametrize("module", [False, True])
def test_param_sites_that_come_late_train_as_under_stock_pyro(module):
    """At the third step, and never in evaluation mode, in which the pair is tried at first."""
    calls = []

    def guide(x):
        loc = pyro.param("loc", torch.zeros(1))
        if torch.is_grad_enabled():
            calls.append(len(x))
            if len(calls) > 2:
                loc = loc + pyro.param("late", torch.zeros(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("code", dist.Normal(loc.expand(len(x), 1), 1.0).to_event(1))

    class Guide(nn.Module):
        forward = staticmethod(guide)

    x, found = torch.randn(6, 20, 3), []
    for stock in (False, True):
        pyro.clear_param_store()
        calls.clear()
        program = Guide() if module else guide
        if stock:
            svi = pyro.infer.SVI(user_model, program, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        else:
            svi = SVI(user_model, program, functools.partial(torch.optim.Adam, lr=0.1))
        with torch.random.fork_rng():
            for batch in x:
                svi.step(batch)
        found.append({k: v.detach().clone() for k, v in pyro.get_param_store().items()})
    torch.testing.assert_close(*found)
    assert found[0]["late"] != 0


class Experts(nn.Module):
    """A guide with one network per label, of which a batch may lack some."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 1) for _ in range(3))

    def forward(self, x, *, y):
        loc = torch.zeros(len(x), 1)
        for label in y.unique():
            loc = torch.where((y == label)[:, None], self.experts[label](x), loc)
        with pyro.plate("rows", len(x)):
            pyro.sample("code", dist.Normal(loc, 1.0).to_event(1))


def test_an_expert_of_a_rare_label_trains_once_its_label_comes():
    guide, x = Experts(), torch.randn(4, 3)
    svi = SVI(user_model, guide)
    with pytest.warns(UntrainedWarning, match=r"guide\.experts\.2\.weight, guide\.experts\.2\.b"):
        svi.step(x, y=torch.tensor([0, 1, 0, 1]))
    before = flat(guide.experts[2])
    svi.step(x, y=torch.tensor([0, 1, 2, 1]))
    assert (flat(guide.experts[2]) != before).all()


net, hidden = nn.Linear(3, 1), [nn.Linear(1, 1)]


def careless(x):
    """A guide whose networks nobody registers: stock Pyro does not train them, silently."""
    with pyro.plate("rows", len(x)):
        loc = hidden[0](net(x)) + pyro.param("shift", torch.zeros(1))
        pyro.sample("code", dist.Normal(loc, 1.0).to_event(1))


class Careless(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.hidden = [nn.Linear(3, 1)]

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            loc = self.hidden[0](x) + self.shift
            pyro.sample("code", dist.Normal(loc, 1.0).to_event(1))


def test_leaves_of_the_loss_that_nobody_trains_are_named():
    x = torch.randn(4, 3)
    svi = SVI(user_model, careless)
    with pytest.warns(UntrainedWarning) as caught:
        svi.step(x)
    assert [warning.filename for warning in caught] == [__file__]
    (message,) = [str(warning.message) for warning in caught]
    for name in ("net.weight", "net.bias", "hidden[0].weight", "hidden[0].bias"):
        assert name in message
    svi.step(x)
    with pytest.warns(UntrainedWarning, match=r"trains guide\.hidden\[0\]"):
        SVI(user_model, Careless()).step(x)


@pytest.mark.parametrize("way", ["pyro.module", "module", "frozen"])
def test_each_way_out_that_the_warning_names_works(way):
    x, networks = torch.randn(4, 3), nn.ModuleList([net, hidden[0]])

    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.networks = networks

        def forward(self, x):
            return careless(x)

    def declared(x):
        pyro.module("networks", networks)
        return careless(x)

    networks.requires_grad_(way != "frozen")
    guide = {"pyro.module": declared, "module": Held(), "frozen": careless}[way]
    svi = SVI(user_model, guide, functools.partial(torch.optim.Adam, lr=0.1))
    assert changes(svi, x, networks) == [way != "frozen"] * 4
    networks.requires_grad_(True)
