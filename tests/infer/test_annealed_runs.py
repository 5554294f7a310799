"""Annealing leaves state alone, and its numbers hang on nothing but the seed."""

import functools
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.data.arguments import Arguments
from pyro_vae.guides import BottomUp
from pyro_vae.infer import annealed, elbo_terms, importance
from pyro_vae.infer.path import Path
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.running import traced

# The package's functions of the same names hide the modules
path, module = (sys.modules[f"pyro_vae.infer.{name}"] for name in ("path", "annealed"))
FEW = {"temperatures": 12, "chains": 3, "leapfrog": 1, "progress": False}
TENSORS = ("log_likelihood", "standard_error", "effective_sample_size", "acceptance")


def case(dtype=torch.float64):
    """A pair whose rounding is far below what a decision to accept hangs on."""
    vae = VAE((6,), 3, likelihood=Bernoulli(), hidden=(5,), condition=2, norm=nn.BatchNorm1d)
    guide = BottomUp(vae)
    x, y = torch.rand(7, 6).round().to(dtype), torch.randint(2, (7,))
    return vae.to(dtype), guide.to(dtype), x, y


def assert_same(a, b, **tolerance):
    for name in TENSORS:
        torch.testing.assert_close(
            getattr(a, name), getattr(b, name), **({"atol": 0, "rtol": 0} | tolerance)
        )


def test_state_is_left_as_it_was():
    vae, guide, x, y = case()
    vae.train(), guide.train()
    weight = next(vae.parameters())
    weight.grad = torch.ones_like(weight)
    before = {k: v.clone() for k, v in [*vae.state_dict().items(), *guide.state_dict().items()]}
    stream, given = torch.get_rng_state(), x.clone()
    annealed(vae, guide, x, y=y, **FEW)
    assert torch.equal(torch.get_rng_state(), stream) and torch.equal(x, given)
    assert all(m.training for program in (vae, guide) for m in program.modules())
    after = dict([*vae.state_dict().items(), *guide.state_dict().items()])
    assert before.keys() == after.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(p.grad is None for p in [*vae.parameters(), *guide.parameters()][1:])
    assert not pyro.get_param_store().keys()


def test_the_same_seed_gives_the_same_numbers():
    vae, guide, x, y = case()
    first = annealed(vae, guide, x, y=y, seed=3, **FEW)
    torch.rand(5)
    assert_same(annealed(vae, guide, x, y=y, seed=3, **FEW), first)
    assert (
        annealed(vae, guide, x, y=y, seed=4, **FEW).log_likelihood != first.log_likelihood
    ).all()
    # Torch's own stream, which goes back to where it was
    assert_same(*(annealed(vae, guide, x, y=y, **FEW) for _ in range(2)))


@pytest.mark.parametrize("chunk_size", [1, 8, 10**6])
def test_the_chunk_size_changes_nothing(chunk_size):
    vae, guide, x, y = case()
    expected = annealed(vae, guide, x, y=y, seed=0, **FEW)
    found = annealed(vae, guide, x, y=y, seed=0, chunk_size=chunk_size, **FEW)
    assert_same(found, expected, atol=1e-5, rtol=1e-5)


def test_at_most_chunk_size_rows_run_at_once(monkeypatch):
    monkeypatch.setattr(path, "_CALLS_BEFORE_A_GRAPH", 10**6)
    vae, guide, x, y = case()
    rows = []
    vae.decoder.register_forward_pre_hook(lambda m, args: rows.append(args[0][..., 0].numel()))
    annealed(vae, guide, x, y=y, chunk_size=8, **FEW)
    # The pass that adapts step sizes has four chains, of two data; checks have two copies of few
    assert max(rows) == 8 and rows.count(6) > rows.count(3) > 0


@pytest.mark.parametrize("guided", [True, False])
def test_the_recorded_engine_gives_the_same_numbers(guided, monkeypatch):
    vae, guide, x, y = case()
    found, runs, options = [], [], {**FEW, "temperatures": 32, "seed": 0}
    monkeypatch.setattr(path, "traced", lambda *a: (runs.append(1), traced(*a))[1])
    for calls in (10**6, 2):
        monkeypatch.setattr(path, "_CALLS_BEFORE_A_GRAPH", calls)
        runs.clear()
        with warnings.catch_warnings(action="error"):
            found.append((annealed(vae, guide if guided else None, x, y=y, **options), len(runs)))
    (eager, all_runs), (recorded, few_runs) = found
    assert_same(eager, recorded)
    # A pass of 63 and one of 31 proposals; replays run nothing
    assert all_runs > 2 * (63 + 31) > 2 * few_runs


def test_blocks_go_on_after_the_last_one_that_was_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", 9)
    vae, guide, x, y = case()
    options = {"y": y, "seed": 1, **FEW}
    whole = annealed(vae, guide, x, **options)
    folder = tmp_path / "kept"
    assert_same(annealed(vae, guide, x, folder=folder, **options), whole)
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == [f"block-{i:05}.pt" for i in range(3)]
    files[1].unlink()
    runs = []
    monkeypatch.setattr(Path, "ends", lambda *a, of=Path.ends: (runs.append(len(a[1])), of(*a))[1])
    again = annealed(vae, guide, x, folder=folder, **options)
    assert_same(again, whole)
    assert runs == [3]
    # Other seeds are as good, and what is finished stays as it is
    files[2].unlink()
    other = annealed(vae, guide, x, folder=folder, y=y, **FEW)
    assert torch.equal(other.log_likelihood[:6], whole.log_likelihood[:6])
    assert other.log_likelihood[6] != whole.log_likelihood[6]


def test_a_folder_holds_one_estimate(tmp_path):
    vae, guide, x, y = case()
    annealed(vae, guide, x, y=y, folder=tmp_path, **FEW)
    for message, change in {
        "other temperatures": {"temperatures": 13},
        "other chains": {"chains": 4},
        "other data": {"y": 1 - y},
    }.items():
        with pytest.raises(ValueError, match=message):
            annealed(vae, guide, x, **{"y": y, **FEW, **change}, folder=tmp_path)
    with pytest.raises(ValueError, match="other start"):
        annealed(vae, None, x, y=y, folder=tmp_path, **FEW)
    with torch.no_grad():
        next(guide.parameters()).add_(1)
    with pytest.raises(ValueError, match="other parameters"):
        annealed(vae, guide, x, y=y, folder=tmp_path, **FEW)


def function(x):
    with pyro.plate("data", len(x)):
        scale = pyro.param("width", torch.tensor(1.0))
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_parameters_of_functions_tell_estimates_apart(tmp_path):
    x = torch.randn(3)
    annealed(function, None, x, folder=tmp_path, **FEW)
    annealed(function, None, x, folder=tmp_path, **FEW)
    pyro.get_param_store()["width"] = torch.tensor(2.0)
    with pytest.raises(ValueError, match="other parameters"):
        annealed(function, None, x, folder=tmp_path, **FEW)


def test_the_bar_counts_every_transition(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_ROWS", 9)
    vae, guide, x, y = case()
    options = {**FEW, "progress": True, "folder": tmp_path}
    for _ in range(2):
        annealed(vae, guide, x, y=y, **options)
        # 23 to adapt step sizes, then 11, of three blocks
        assert "102/102" in capsys.readouterr().err


def test_arguments_of_a_program_of_ones_own_come_in_any_form():
    vae, guide, x = VAE((6,), 2, likelihood=Gaussian(0.5)), None, torch.randn(4, 6)

    def model(pictures):
        return vae(pictures)

    found = annealed(model, guide, Arguments((), {"pictures": x}), seed=0, **FEW)
    expected = annealed(vae, None, x, seed=0, **FEW)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood, atol=1e-3, rtol=1e-3)


def test_single_precision_stays_it():
    vae, guide, x, y = case(torch.float32)
    found = annealed(vae, guide, x, y=y, **FEW)
    assert found.log_likelihood.dtype == torch.float32 and found.log_likelihood.isfinite().all()


class Shared(nn.Module):
    """A latent that all data share."""

    def forward(self, x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Switch(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            side = pyro.sample("side", dist.Bernoulli(0.5))
            z = pyro.sample("z", dist.Normal(side, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Counted(nn.Module):
    """Any number of steps up, which has no end to sum to."""

    def __init__(self, mark=None):
        super().__init__()
        self.mark = mark

    def forward(self, x):
        with pyro.plate("data", len(x)):
            count = pyro.sample("count", dist.Poisson(1.0), infer={"enumerate": self.mark})
            z = pyro.sample("z", dist.Normal(count, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Classes(nn.Module):
    """Nothing is left to move along."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            side = pyro.sample("side", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(side, 1.0), obs=x)


class Covariance(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            s = pyro.sample("s", dist.Wishart(torch.tensor(20.0), torch.eye(2)))
            pyro.sample("x", dist.Normal(s[..., 0, 0], 1.0), obs=x)


class Direction(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            way = pyro.sample("way", dist.ProjectedNormal(torch.ones(2)))
            pyro.sample("x", dist.Normal(way[..., 0], 1.0), obs=x)


class Point(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x))))


class Auxiliary(nn.Module):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            e = pyro.sample("e", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(e + torch.zeros(len(x)), 1.0))


# Of Pyro, on draws that are not
@pytest.mark.filterwarnings("ignore:Singular sample")
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (Shared(), None, "site 'mean': it is outside the data plate"),
        (Switch(), None, "site 'side': expected continuous values, .* got a Bernoulli: mark it"),
        (Counted(), None, "site 'count': expected continuous values, .* a Poisson: use infer.imp"),
        (Counted("parallel"), None, "site 'count': expected finitely many values, .* a Poisson"),
        (Classes(), None, "model: expected latents with continuous values, .* got none besides"),
        (Classes(), lambda x: None, "model: expected latents with continuous values"),
        (Covariance(), None, "site 's': expected continuous values, .* got a Wishart"),
        (Direction(), None, "site 'way': expected continuous values, .* got a ProjectedNormal"),
        (function, Point(), "site 'z': the guide is a point mass"),
        (function, Auxiliary(), "site 'e': annealing needs densities of the latents themselves"),
    ],
)
def test_what_cannot_be_annealed_is_refused_by_name(model, guide, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        annealed(model, guide, torch.randn(4), folder=tmp_path, **FEW)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["temperatures", "chains", "leapfrog", "chunk_size"])
def test_numbers_are_checked(name, linear):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, got 0"):
        annealed(linear.vae, None, linear.data(2), **{**FEW, name: 0})


def test_a_folder_that_is_none_is_told(tmp_path, linear):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="folder: expected a folder that can be written to"):
        annealed(linear.vae, None, linear.data(2), folder=tmp_path / "file", **FEW)


@pytest.mark.parametrize("run", [annealed, importance, elbo_terms])
def test_what_is_no_program_or_no_data_is_told(run, linear):
    x, guide = linear.data(2), linear.guide()
    for pair, name in (((linear.vae, "prior"), "guide"), ((None, guide), "model")):
        with pytest.raises(TypeError, match=f"{name}: expected a Pyro program, an nn.Module"):
            run(*pair, x)
    with pytest.raises(TypeError, match="guide: expected a Pyro program, got the class BottomUp"):
        run(linear.vae, BottomUp, x)
    with pytest.raises(ValueError, match="x: expected at least one datum"):
        run(linear.vae, guide, x[:0])


def test_draws_of_guides_that_encode_each_are_taken_some_at_a_time(monkeypatch):
    """Memory is bounded where the blocks of a machine are large."""
    vae, guide, x, y = case()
    rows, run = [], functools.partial(annealed, vae, guide, x, y=y, seed=0, **FEW)
    monkeypatch.setattr(path, "can_broadcast", lambda *a: False)
    forward = guide.forward
    monkeypatch.setattr(guide, "forward", lambda x, **k: (rows.append(len(x)), forward(x, **k))[1])
    run()
    assert max(rows) == 7 * 4
    monkeypatch.setattr(path, "ENCODED_ROWS", 15)
    rows.clear()
    draws = []
    monkeypatch.setattr(
        path, "draws", lambda *a, of=path.draws, **k: (draws.append(a[3]), of(*a, **k))[1]
    )
    assert run().log_likelihood.isfinite().all()
    assert draws == [2, 2, 2, 2, 1]
