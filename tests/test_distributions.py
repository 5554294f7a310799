import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.distributions import OneHotPoint


def one_hot(*shape, k=4):
    return torch.nn.functional.one_hot(torch.randint(k, shape), k).float()


def test_one_hot_point_is_a_mass_of_one():
    value = one_hot(3, 2)
    q = OneHotPoint(value)
    every = torch.eye(4).reshape(4, 1, 1, 4).expand(4, 3, 2, 4)
    assert torch.equal(q.log_prob(every).exp().sum(0), torch.ones(3, 2))
    assert torch.equal(q.rsample((5,)), value.expand(5, 3, 2, 4))
    assert torch.equal(q.log_prob(value), torch.zeros(3, 2))
    assert torch.equal(q.mean, value) and not q.variance.any() and not q.entropy().any()
    assert q.expand(torch.Size((6, 3, 2))).sample().shape == (6, 3, 2, 4)


def test_kl_of_a_one_hot_point_is_that_of_a_categorical_with_all_mass_there():
    value, logits = one_hot(3), torch.randn(3, 4)
    p = dist.OneHotCategorical(logits=logits)
    kl = kl_divergence(OneHotPoint(value), p)
    expected = kl_divergence(dist.Categorical(probs=value), dist.Categorical(logits=logits))
    torch.testing.assert_close(kl, expected)
    both = kl_divergence(OneHotPoint(value).to_event(1), p.to_event(1))
    torch.testing.assert_close(both, expected.sum())


def test_one_hot_point_refuses_what_is_not_one_hot():
    with pytest.raises(ValueError, match="value"):
        OneHotPoint(torch.full((2, 4), 0.25))
    with pytest.raises(ValueError):
        OneHotPoint(one_hot(2)).log_prob(torch.ones(2, 4))
