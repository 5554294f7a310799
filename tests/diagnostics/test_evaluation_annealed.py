"""Evaluations whose log p(x) is annealed."""

import json
import math
import warnings

import pytest
import torch

from pyro_vae.diagnostics import evaluate
from pyro_vae.guides import BottomUp, Delta
from pyro_vae.infer import annealed
from pyro_vae.likelihoods import Bernoulli, Categorical
from pyro_vae.models import VAE

FEW = {"temperatures": 20, "chains": 4}


def test_annealed_numbers_are_those_of_infer_and_need_no_good_guide(linear):
    x, bad = linear.data(100), linear.guide(shift=1.5)
    with warnings.catch_warnings(action="error"):
        both = evaluate(linear.vae, bad, x, method="both", reference=x, temperatures=200)
    expected = annealed(linear.vae, bad, x, temperatures=200, progress=False)
    assert torch.equal(both.annealed.log_likelihood, expected.log_likelihood)
    found, exact = both.to_dict(), linear.evidence().log_prob(x).mean()
    assert abs(found["log p(x), annealed"]["mean"] - exact) < 0.1
    assert found["log p(x)"]["mean"] < exact - 0.2
    assert found["time of annealing"]["unit"] == "s" and json.dumps(found)
    assert found["time of importance sampling"]["mean"] == both.importance.seconds > 0
    assert "16 chains of 200 temperatures" in str(both) and "time of annealing" in both.to_html()
    # The pair is the exact one, whatever its guide: as good as any other
    assert both.log_likelihood == ("log p(x), annealed", both.annealed.log_likelihood)
    assert not any(ahead > 0.5 for ahead, _ in both.unbeaten.values())
    with pytest.warns(UserWarning, match="or method='annealed'"):
        evaluate(linear.vae, bad, x)


def test_by_annealing_alone():
    vae = VAE((4,), 2, likelihood=Categorical(4), hidden=(3,))
    x = torch.randint(4, (5, 4)) / 3
    found = evaluate(vae, BottomUp(vae), x, method="annealed", **FEW)
    rows = found.to_dict()
    assert found.importance is None and "log p(x)" not in rows
    nats, bits = rows["log p(x), annealed"]["mean"], rows["-log p(x), annealed"]
    assert bits["unit"] == "bits/dim" and bits["mean"] == pytest.approx(-nats / 4 / math.log(2))
    assert "time of annealing" in rows and "time of importance sampling" not in rows


def test_a_point_mass_and_unknown_methods():
    vae = VAE((4,), 2, likelihood=Bernoulli(), hidden=(3,))
    x = torch.rand(5, 4).round()
    assert evaluate(vae, Delta(vae), x, method="both", **FEW).annealed is None
    with pytest.raises(ValueError, match="method: expected one of importance, annealed, both"):
        evaluate(vae, BottomUp(vae), x, method="anneal")
    with pytest.raises(ValueError, match="temperatures: expected a whole number"):
        evaluate(vae, BottomUp(vae), x, method="both", temperatures=0)
