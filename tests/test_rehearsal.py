import pytest
import torch
from torch import nn

from pyro_vae.rehearsal import TooLarge, limited, rehearsal


def test_what_is_built_has_shapes_and_no_memory():
    with rehearsal(2**63):
        layer = nn.Linear(10**9, 10**6)
    assert layer.weight.shape == (10**6, 10**9) and layer.weight.device.type == "meta"


def test_values_are_counted_over_all_modules():
    # Four layers of 1000 x 1000 + 1000 values and their own room
    room = 4 * (1001 * 1000 + 2 * 4096) + 4 * 4096
    with limited(room):
        nn.ModuleList(nn.Linear(1000, 1000) for _ in range(4))
    with pytest.raises(TooLarge, match="ask for more than 4,053,151 values"), limited(room - 1):
        nn.ModuleList(nn.Linear(1000, 1000) for _ in range(4))


def test_an_endless_number_of_modules_ends():
    with pytest.raises(TooLarge), rehearsal(10**6):
        nn.ModuleList(iter(nn.ReLU, None))
    with pytest.raises(TooLarge), rehearsal(10**6):
        list(iter(lambda: nn.Linear(1, 1), None))


def test_buffers_count():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("one_hot", torch.eye(10**6), persistent=False)

    with pytest.raises(TooLarge), rehearsal(10**9):
        Table()


def test_a_constructor_that_needs_values_is_passed_over():
    with rehearsal(10**6):
        float(torch.zeros(()))
    with rehearsal(10**6):
        raise ValueError("for the real one to say")


def test_nothing_stays():
    with pytest.raises(TooLarge), limited(0):
        nn.Linear(1, 1)
    assert nn.Linear(1, 1).weight.device.type == "cpu"
