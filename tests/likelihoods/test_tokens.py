import itertools

import pytest
import torch
from chance import LEVEL, chance_of

from pyro_vae import data, likelihoods
from pyro_vae.distributions import UntilEnd

SIZE, LENGTH = 3, 4


def sequences(size=SIZE, length=LENGTH):
    """All sequences of at most so many tokens, each ended by 0 where it is shorter."""
    whole = [
        (*tokens, *(0,) * (length - m))
        for m in range(length + 1)
        for tokens in itertools.product(range(1, size), repeat=m)
    ]
    return torch.tensor(whole, dtype=torch.float32)


def test_probabilities_of_all_sequences_up_to_a_length_sum_to_one():
    p = likelihoods.Tokens(SIZE)(torch.randn(5, LENGTH, SIZE, dtype=torch.float64))
    x = sequences().double()
    assert len(x) == 2**5 - 1
    probabilities = p.log_prob(x[:, None]).exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(5, dtype=torch.float64))


def test_the_log_probability_is_the_sum_up_to_the_end():
    logits = torch.randn(LENGTH, SIZE)
    x = torch.tensor([2.0, 1.0, 0.0, 0.0])
    expected = sum(logits.log_softmax(-1)[t, int(x[t])] for t in range(3))
    torch.testing.assert_close(UntilEnd(logits).log_prob(x), expected)
    torch.testing.assert_close(UntilEnd(logits).log_prob(x.long()), expected)


def test_places_behind_the_end_have_no_gradient():
    logits = torch.randn(LENGTH, SIZE, requires_grad=True)
    UntilEnd(logits).log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0])).backward()
    assert (logits.grad[:2] != 0).all() and (logits.grad[2:] == 0).all()


def test_sequences_that_go_on_behind_their_end_are_impossible():
    p = UntilEnd(torch.randn(2, LENGTH, SIZE), validate_args=False)
    x = torch.tensor([[1.0, 0.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    assert p.log_prob(x).isinf().tolist() == [True, False]
    assert p.support.check(x).tolist() == [False, True]
    with pytest.raises(ValueError, match="within the support"):
        UntilEnd(torch.randn(2, LENGTH, SIZE), validate_args=True).log_prob(x)


def test_samples_match_the_probabilities():
    p, x = UntilEnd(torch.randn(2, SIZE)), sequences(length=2)
    draws = p.sample((20000,))
    counts = (draws[:, None] == x).all(-1).sum(0)
    assert counts.sum() == 20000
    assert chance_of(counts, 20000, p.log_prob(x).exp()) > LEVEL


def test_shapes_and_means():
    p = UntilEnd(torch.tensor([[0.0, 0, 9], [9, 0, 0], [0, 9, 0]]).expand(5, 3, 3))
    assert p.batch_shape == (5,) and p.event_shape == (3,)
    assert torch.equal(p.mean, torch.tensor([2.0, 0, 0]).expand(5, 3))
    assert p.expand((4, 5)).sample((2,)).shape == (2, 4, 5, 3)


def test_lengths_count_the_end():
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 1, 0], [1, 1, 1]])
    assert likelihoods.Tokens(3).lengths(x).tolist() == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([1.0, 3.0, 0.0], "numbered 0 to 2, got 1 others"),
        ([1.0, -1.0, 0.0], "numbered 0 to 2, got 1 others"),
        ([1.0, 0.5, 0.0], "numbered 0 to 2, got 1 others"),
        ([1.0, torch.nan, 0.0], "finite values, got 1"),
        ([1.0, 0.0, 2.0], "zeros after the first 0 of a row.*in row 1, and 1 such"),
    ],
)
def test_data_that_are_no_such_sequences_are_refused(row, told):
    likelihood = likelihoods.Tokens(3)
    good = torch.tensor([[1.0, 2.0, 0.0]])
    likelihood.check(good)
    with pytest.raises(ValueError, match=f"^x: .*{told}"):
        likelihood.check(torch.cat([good, torch.tensor([row])]))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^vocabulary: expected a whole number of at least 2"):
        likelihoods.Tokens(1)
    with pytest.raises(ValueError, match=r"^event_shape: expected \(t,\) of tokens"):
        likelihoods.Tokens(3).feature_shape((2, 2))
    with pytest.raises(ValueError, match=r"^vocabulary: expected that of a text"):
        likelihoods.Tokens(3).text(torch.zeros(1, 2))
    assert likelihoods.Tokens(data.Vocabulary("ab", 3)).text(torch.tensor([[2.0, 1, 0]])) == ["ba"]
