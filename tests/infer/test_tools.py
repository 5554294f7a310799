import pyro
import pyro.distributions as dist
import torch

from pyro_vae import infer
from pyro_vae.guides import BottomUp, Delta, Ladder
from pyro_vae.infer import PairSummary, check_pair
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.models import VAE

X = torch.ones(9, 6)


def vae(**options):
    return VAE((6,), (3, 2), **{"likelihood": Bernoulli(), "hidden": (5,), **options})


def test_all_tools_work_with_a_pair_of_the_library():
    model = vae(condition=3)
    found = check_pair(model, Ladder(model), X, y=torch.arange(9) % 3)
    assert isinstance(found, PairSummary)
    assert found.latents == {"z2": (2,), "z1": (3,)}
    assert set(found.tools.values()) == {""}
    told = [row[0] for row in found.table().rows]
    assert told == [*found.tools, "sees what the posterior does"] and len(told) > 11


def test_what_does_not_work_is_told_with_its_reason():
    model = vae()
    tools = check_pair(model, Delta(model), X).tools
    assert {t for t, why in tools.items() if why} == {"elbo='analytic'", "importance", "collapse"}
    assert "is a point mass" in tools["importance"]
    tools = check_pair(model, BottomUp(model), X).tools
    assert {t for t, why in tools.items() if why} == {"elbo='analytic'"}
    assert "the guide samples 'z2'" in tools["elbo='analytic'"]


def fixed(x):
    with pyro.plate("rows", 9):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] + 0 * x, 1.0).to_event(1), obs=x)


def fixed_guide(x):
    loc = pyro.param("loc", lambda: x.mean(1))
    with pyro.plate("rows", 9):
        pyro.sample("z", dist.Normal(loc, 1.0))


def test_a_pair_of_fixed_size_is_for_whole_data():
    tools = check_pair(fixed, fixed_guide, X).tools
    assert tools["fit, whole data"] == tools["save, resume"] == ""
    for tool in ("fit, minibatches", "engine='graph'"):
        assert tools[tool] and "\n" not in tools[tool], tool
    assert tools["sample"] == "" and infer.sample(fixed, X)["x"].shape == X.shape


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 1)

    def model(self, x, response):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            mean = z + self.linear(x).squeeze(-1)
            pyro.sample("response", dist.Normal(mean, 1.0), obs=response)

    def guide(self, x, response):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(response, 1.0))


def test_methods_with_arguments_of_their_own_can_all_but_what_needs_x_alone():
    pair = Regression()
    tools = check_pair(pair.model, pair.guide, (X, X.sum(1))).tools
    assert {t for t, why in tools.items() if why} == {"reconstruct"}
    assert tools["reconstruct"].startswith("x: expected a tensor (n, ...), got Arguments: pass x")


def test_nothing_is_tried_before_it_is_asked_for_and_nothing_left_behind():
    runs = []

    def counted(x):
        runs.append(len(x))
        return fixed(x)

    model = vae()
    model.train()
    guide = BottomUp(model)
    found = check_pair(counted, fixed_guide, X)
    before, stream = len(runs), torch.get_rng_state()
    kept = check_pair(model, guide, X)
    assert len(runs) == before
    text = str(found)
    assert len(runs) > before
    assert text.splitlines()[0] == "latents z (); observed x"
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    str(kept)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
    assert len(pyro.get_param_store()) == 0
