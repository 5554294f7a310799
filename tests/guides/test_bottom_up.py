import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import one_hot

from pyro_vae.guides import BottomUp
from pyro_vae.handlers import scale_latents
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE, VQVAE


def pair(latents=(4, 3), guide=None, **kwargs):
    vae = VAE((6,), latents, **({"likelihood": Gaussian(), "hidden": (5,)} | kwargs))
    return vae, BottomUp(vae, **(guide or {}))


@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize("latents", [(4,), (4, 3), (5, 4, 3)])
def test_log_density_by_hand(latents, condition):
    _, guide = pair(latents, condition=condition)
    x, y = torch.randn(7, 6), torch.randint(3, (7,)) if condition else None
    label = [one_hot(y, 3).float()] if condition else []
    trace = poutine.trace(guide).get_trace(x, y=y)
    nodes = {k: v for k, v in trace.nodes.items() if v["type"] == "sample"}
    assert list(nodes) == ["data", *(f"z{i + 1}" for i in range(len(latents)))]
    below, expected = x, 0.0
    for site, q in guide.conditionals.items():
        h = q.network(torch.cat([below, *label], -1))
        scale = (1 + q.raw_scale(h).exp()).log() + q.min_scale
        below = nodes[site]["value"]
        expected += torch.distributions.Normal(q.loc(h), scale).log_prob(below).sum()
        (frame,) = nodes[site]["cond_indep_stack"]
        assert (frame.name, frame.size, frame.dim) == ("data", 7, -1)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_the_exact_posterior_of_the_linear_model_is_representable(linear):
    x = linear.data(5)
    mean, sd = linear.posterior(x)
    q = linear.guide().conditionals["z1"](x)
    torch.testing.assert_close(q.mean, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(q.stddev, sd.expand(5, 2), atol=1e-5, rtol=1e-5)


def test_means_are_given_means_and_samples_are_joint():
    _, guide = pair((4, 3))
    x = torch.randn(5, 6)
    encoding = guide.encode(x)
    z1 = guide.conditionals["z1"](x).mean
    torch.testing.assert_close(encoding.mean["z1"], z1)
    torch.testing.assert_close(encoding.mean["z2"], guide.conditionals["z2"](z1).mean)
    with torch.random.fork_rng():
        expected = guide(x)
    draw = guide.encode(x).sample
    assert all(torch.equal(draw[s], expected[s]) for s in ("z1", "z2"))


def test_hidden_widths_mirror_the_model_unless_given():
    def widths(guide):
        return [[m.out_features for m in q.network.layers] for q in guide.conditionals.values()]

    hidden = ((8, 7), (5,))
    vae, guide = pair(hidden=hidden)
    assert widths(guide) == [[8, 7], [5]]
    assert widths(BottomUp(vae, hidden=(9,))) == [[9], [9]]
    assert widths(BottomUp(vae, hidden=((9,), ()))) == [[9], []]
    with pytest.raises(ValueError, match="one tuple per latent layer"):
        BottomUp(vae, hidden=((9,),))
    decoder = [m.out_features for m in vae.decoder.layers]
    top_down = [m.out_features for m in vae.conditionals["z1"].network.layers]
    assert (decoder, top_down) == ([7, 8, 6], [5])


def test_own_conditionals():
    class Mixed(nn.Module):
        def forward(self, z1):
            return dist.StudentT(3.0, z1[..., :3], 2.0).to_event(1)

    vae, guide = pair(guide={"conditionals": {"z2": Mixed()}})
    x = torch.randn(5, 6)
    trace = poutine.trace(guide).get_trace(x)
    z1, z2 = (trace.nodes[s]["value"] for s in ("z1", "z2"))
    trace.compute_log_prob()
    expected = torch.distributions.StudentT(3.0, z1[:, :3], 2.0).log_prob(z2).sum(-1)
    torch.testing.assert_close(trace.nodes["z2"]["log_prob"], expected)
    with pytest.raises(ValueError, match=r"conditionals: expected one of .*, got 'z3'"):
        BottomUp(vae, conditionals={"z3": Mixed()})


def test_own_encoder_in_evaluation_mode_and_untouched_by_the_check():
    vae = VAE((1, 4, 4), 2, likelihood=Bernoulli())
    encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    guide = BottomUp(vae, encoder=encoder)
    assert encoder[1].num_batches_tracked == 0
    x = torch.rand(5, 1, 4, 4).round()
    mean = guide.encode(x).mean["z1"]
    assert encoder[1].num_batches_tracked == 0
    assert encoder.training
    encoder.eval()
    torch.testing.assert_close(mean, guide.conditionals["z1"].loc(encoder(x)))


def test_an_encoder_must_return_vectors():
    vae = VAE((1, 4, 4), 2, likelihood=Bernoulli())
    with pytest.raises(ValueError, match=r"encoder: expected .* \(n, f\), got .*Flatten\(\)"):
        BottomUp(vae, encoder=nn.Conv2d(1, 3, 3))


@pytest.mark.parametrize(
    ("kwargs", "story"),
    [
        ({"latents": 3}, "q(z1|x) = q(z1|x)"),
        ({"latents": (4, 3)}, "q(z1, z2|x) = q(z1|x) q(z2|z1)"),
        ({"latents": (4, 3), "condition": 2}, "q(z1, z2|x,y) = q(z1|x,y) q(z2|z1,y)"),
    ],
)
def test_repr_tells_the_factorisation(kwargs, story):
    _, guide = pair(**kwargs)
    assert repr(guide).splitlines()[1].strip() == story


def test_the_model_is_a_program_with_data_or_a_vae_under_a_handler():
    with pytest.raises(TypeError, match="model: expected a generative program, got 3: build"):
        BottomUp(3)
    with pytest.raises(TypeError, match="like: expected data for Linear, which has to be run"):
        BottomUp(nn.Linear(2, 2))
    vae, _ = pair()
    guide = BottomUp(scale_latents(vae, 2.0))
    assert guide.encode(torch.zeros(5, 6)).mean["z2"].shape == (5, 3)


def test_arguments_of_the_networks():
    vae, _ = pair()
    widths = [
        q.in_features for c in BottomUp(vae, hidden=9).conditionals.values() for q in [c.loc]
    ]
    assert widths == [9, 9]
    with pytest.raises(ValueError, match="hidden: expected positive integers"):
        BottomUp(vae, hidden=(-9,))
    with pytest.raises(ValueError, match=r"encoder: .* \(n, 6\) to a tensor, got a Linear .*1x6"):
        BottomUp(vae, encoder=nn.Linear(5, 4))
    vae, _ = pair(condition=3)
    with pytest.raises(ValueError, match=r"encoder: .* of shape \(n, 6\), \(n, 3\) to a tensor"):
        BottomUp(vae, encoder=nn.Linear(6, 4))


def test_a_model_with_codes_is_refused():
    vqvae = VQVAE((1, 8, 8), 4, 3, likelihood=Bernoulli())
    with pytest.raises(TypeError, match=r"latents, got VQVAE: use guides\.NearestCode"):
        BottomUp(vqvae)
