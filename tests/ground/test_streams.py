import pytest
import torch

from pyro_vae.ground.streams import RandomStream

CPU = torch.device("cpu")


def draws(stream, *counts):
    out = []
    for count in counts:
        with stream.on(CPU):
            out.append(torch.rand(count))
    return torch.cat(out)


def test_it_goes_on_where_it_stopped_as_one_seeded_stream():
    expected = torch.rand(12, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draws(RandomStream(3), 5, 4, 3), expected)


def test_the_global_stream_is_as_before():
    before = torch.get_rng_state()
    draws(RandomStream(3), 5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_global_stream_is_as_before_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), RandomStream(3).on(CPU):
        torch.rand(2)
        raise ZeroDivisionError
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_seed_it_is_the_global_stream():
    torch.manual_seed(1)
    expected = torch.rand(5)
    torch.manual_seed(1)
    assert torch.equal(draws(RandomStream(None), 5), expected)


def test_states_can_be_carried_over():
    first, second = RandomStream(3), RandomStream(4)
    draws(first, 5)
    second.load(first.states())
    assert torch.equal(draws(first, 3), draws(second, 3))
