import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import infer
from pyro_vae.guides import BottomUp, Composed, Flow, FullCovariance, Ladder
from pyro_vae.handlers import corrupt
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.program import Guide


def model(latents=(5, 4, 3), **kwargs):
    return VAE((6,), latents, likelihood=Gaussian(), hidden=(8,), **kwargs)


def split(whole, *groups):
    """The same modules as parts that cover ``groups``."""
    vae = whole.model
    return Composed(
        *(
            BottomUp(vae, sites=sites, conditionals={s: whole.conditionals[s] for s in sites})
            for sites in groups
        )
    )


@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize(
    "groups", [(["z1"], ["z2"], ["z3"]), (["z1", "z2"], ["z3"]), (["z1"], ["z3", "z2"])]
)
def test_the_parts_of_a_guide_are_the_guide_to_the_last_bit(groups, condition):
    vae = model(condition=condition)
    whole = BottomUp(vae)
    parts = split(whole, *groups)
    x, y = torch.randn(7, 6), torch.arange(7) % 3 if condition else None
    results = []
    for guide in (whole, parts):
        torch.manual_seed(1)
        loss, terms = infer.TraceELBO()(vae, guide, x, y)
        gradients = torch.autograd.grad(loss, [*vae.parameters(), *whole.parameters()])
        estimate = infer.importance(vae, guide, x, y=y, samples=30).log_likelihood
        results.append([loss, *terms.kl.values(), *gradients, estimate])
    assert all(map(torch.equal, *results))
    assert parts.latents == whole.latents == ("z1", "z2", "z3")
    assert infer.check_pair(vae, parts, x, y=y).guide_order == parts.latents


def test_later_parts_see_the_samples_of_earlier_ones():
    vae = model((4, 3))
    guide = Composed(BottomUp(vae, sites=["z1"]), Flow(vae, sites=["z2"]))
    x = torch.randn(7, 6)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    z = {site: trace.nodes[site]["value"] for site in guide.latents}
    flow = guide.parts[1].conditionals["z2"]
    torch.testing.assert_close(
        trace.nodes["z2"]["log_prob"], flow(z["z1"]).log_prob(z["z2"].clone())
    )
    assert [n for n in trace.nodes if n in ("data", "z1", "z2")] == ["data", "z1", "z2"]
    assert [f.name for f in trace.nodes["z2"]["cond_indep_stack"]] == ["data"]


class Top(Guide):
    """A partial guide of a user, q(z2|x)."""

    latents = ("z2",)

    def forward(self, x, *, y=None):
        with pyro.plate("data", len(x), dim=-1):
            loc = x[:, :3]
            return {"z2": pyro.sample("z2", dist.Normal(loc, 1.0).to_event(1))}


def test_parts_of_other_kinds():
    vae = model((4, 3))
    x = torch.randn(7, 6)
    guide = Composed(Top(vae), corrupt(BottomUp(vae, sites=["z1"]), 0.1))
    assert guide.latents == ("z2", "z1")
    assert infer.check_pair(vae, guide, x).guide_order == ("z2", "z1")
    assert torch.equal(guide.encode(x).mean["z2"], x[:, :3])
    assert Composed(Ladder(vae)).latents == ("z2", "z1")


def test_coverage_is_checked_when_it_is_made():
    vae, other = model(), model()
    lower, middle, top = (BottomUp(vae, sites=[s]) for s in ("z1", "z2", "z3"))
    for parts, problem in (
        ((lower, middle), "site 'z3' is covered by no part"),
        ((lower, middle, top, top), "site 'z3' is covered by more than one part"),
        ((BottomUp(vae), FullCovariance(vae, sites=["z2"])), "site 'z2' is covered by more than"),
        ((lower, top, middle), r"parts\[1\] \(BottomUp\) conditions on 'z2', which no part bef"),
        ((lower, middle, BottomUp(other, sites=["z3"])), r"parts\[2\] .* for another model"),
    ):
        with pytest.raises(ValueError, match=problem):
            Composed(*parts)
    # All problems at once
    with pytest.raises(ValueError, match=r"'z1' .* more than one part; site 'z3' .* by no part"):
        Composed(lower, lower, middle)
    with pytest.raises(ValueError, match="parts: expected at least one guide"):
        Composed()
    with pytest.raises(TypeError, match=r"parts\[0\]: expected a guide that declares its latents"):
        Composed(vae)


def test_a_part_alone():
    vae = model((4, 3))
    x = torch.randn(7, 6)
    lower, upper = BottomUp(vae, sites=["z1"]), BottomUp(vae, sites=["z2"])
    assert (lower.parents, upper.parents) == ((), ("z1",))
    with pytest.raises(ValueError, match="latent site 'z2' of the model is missing in the guide"):
        infer.check_pair(vae, lower, x)
    with pytest.raises(ValueError, match=r"given: this guide of \('z2',\) conditions on 'z1'"):
        upper(x)
    assert upper(x, given=lower(x))["z2"].shape == (7, 3)
    assert repr(upper).splitlines()[1] == "  q(z2|z1) = q(z2|z1)"
    assert repr(lower).splitlines()[1] == "  q(z1|x) = q(z1|x)"
    assert "Composed\n  BottomUp\n    q(z1|x) = q(z1|x)" in repr(Composed(lower, upper))


def test_sites():
    vae = model((4, 3))
    for sites in ([], "z1", ["z1", "z1"]):
        with pytest.raises(ValueError, match=r"sites: expected some of .* each once"):
            BottomUp(vae, sites=sites)
    with pytest.raises(ValueError, match="sites: expected one of z1, z2, got 'z5'"):
        BottomUp(vae, sites=["z5"])
    upper = BottomUp(vae, sites=["z2"])
    with pytest.raises(ValueError, match=r"conditionals: expected one of z2, got 'z1'"):
        BottomUp(vae, sites=["z2"], conditionals={"z1": upper.conditionals["z2"]})
    with pytest.raises(
        ValueError, match=r"encoder: expected .* sees the data, got \{'z2': 'z1'\}"
    ):
        BottomUp(vae, sites=["z2"], encoder=torch.nn.Linear(6, 4))
    widths = [
        q.loc.in_features
        for q in BottomUp(vae, hidden=((9,), (7,)), sites=["z2"]).conditionals.values()
    ]
    assert widths == [7]
