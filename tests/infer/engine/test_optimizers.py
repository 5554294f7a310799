import functools

import pytest
import torch
from torch import nn

from pyro_vae.infer.engine.optimizers import Configured, fused, recordable


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_fused_kernels_where_torch_has_them(cls):
    optimizer = fused(cls, lr=0.1)([nn.Parameter(torch.ones(2))])
    assert optimizer.param_groups[0]["fused"] is True


def test_classes_without_a_fused_kernel_are_made_plainly():
    optimizer = fused(torch.optim.RMSprop, lr=0.1)([nn.Parameter(torch.ones(2))])
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_wrong_option_is_not_swallowed():
    with pytest.raises(TypeError, match="momentums"):
        fused(torch.optim.SGD, momentums=1)([nn.Parameter(torch.ones(2))])


def test_a_partial_becomes_a_recorded_object_of_the_same_options():
    configured = recordable(functools.partial(torch.optim.SGD, momentum=0.9))
    assert isinstance(configured, Configured)
    assert configured.arguments == {"optimizer": torch.optim.SGD, "momentum": 0.9}
    group = configured([nn.Parameter(torch.ones(2))], lr=0.1).param_groups[0]
    assert (group["momentum"], group["lr"]) == (0.9, 0.1)
    assert recordable(torch.optim.SGD) is torch.optim.SGD


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW])
def test_an_optimizer_is_as_its_class_makes_it(cls):
    weight = nn.Parameter(torch.ones(2))
    built, usual = fused(cls, lr=0.1)([weight]), cls([weight], lr=0.1, fused=True)
    assert type(built) is cls
    assert vars(built).keys() == vars(usual).keys()
    assert built.state_dict() == usual.state_dict()
    built.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": 0.2})
    assert [group["lr"] for group in built.param_groups] == [0.1, 0.2]
