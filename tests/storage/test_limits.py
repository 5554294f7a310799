import pytest
import torch
from torch import nn

from pyro_vae.storage.limits import limited


def test_a_tensor_is_refused_before_its_memory_is_asked_for():
    for make in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn):
        with pytest.raises(ValueError, match="ask for more than 100 values"), limited(100):
            make(10**9, 10**6)
    one = torch.zeros(())
    for make in (one.new_zeros, one.new_empty, one.new_ones):
        with pytest.raises(ValueError, match="ask for more than 100 values"), limited(100):
            make((10**9, 10**6))
    for make in (torch.eye, torch.arange, torch.randperm):
        with pytest.raises(ValueError, match="ask for more than 100 values"), limited(100):
            make(10**9)


def test_values_are_counted_over_all_modules():
    # Four layers of 1000 x 1000 + 1000 values, and the room of two tensors and of themselves
    room = 4 * (1001 * 1000 + 2 * 4096) + 4 * 4096
    with limited(room):
        nn.ModuleList(nn.Linear(1000, 1000) for _ in range(4))
    with pytest.raises(ValueError, match=f"more than {room - 1:,} values"), limited(room - 1):
        nn.ModuleList(nn.Linear(1000, 1000) for _ in range(4))


def test_an_endless_number_of_modules_ends():
    with pytest.raises(ValueError), limited(10**6):
        nn.ModuleList(iter(nn.ReLU, None))
    with pytest.raises(ValueError), limited(10**6):
        list(iter(lambda: nn.Linear(1, 1), None))


def test_what_is_made_is_as_without():
    torch.manual_seed(0)
    with limited(10**6):
        layer, draw = nn.Linear(3, 4), torch.rand(2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    assert torch.equal(layer.weight, nn.Linear(3, 4).weight)
    assert torch.equal(draw, torch.rand(2, generator=torch.Generator().manual_seed(1)))


def test_nothing_stays():
    with pytest.raises(ValueError), limited(0):
        nn.Linear(1, 1)
    assert nn.Linear(1, 1).weight.numel() == 1
