import pytest
import torch
from torch import nn

from pyro_vae.networks import GRU, MLP, CausalTransformer, SequenceEncoder, SideBySide
from pyro_vae.networks.causal import check_causal

KINDS = {"gru": lambda: GRU(8, layers=2), "transformer": lambda: CausalTransformer(8, heads=2)}


@pytest.fixture(params=KINDS)
def network(request):
    return KINDS[request.param]().double()


def test_a_place_sees_itself_and_those_before_and_no_other(network):
    inputs = torch.randn(1, 5, 8, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda v: network(v)[0], inputs)[0, :, :, 0]
    depends = matrix.abs().sum((1, 3)) > 0
    assert torch.equal(depends, torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1), (2, 3), (3, 1, 1), (1, 4)])
def test_going_on_from_a_state_gives_what_the_whole_gives(network, cuts):
    inputs = torch.randn(3, 5, 8, dtype=torch.float64)
    found, state = [], None
    for part in inputs.split(cuts, 1):
        outputs, state = network(part, state)
        found.append(outputs)
    torch.testing.assert_close(torch.cat(found, 1), network(inputs)[0])


def test_a_transformer_tells_places_apart():
    network = CausalTransformer(8, heads=2).double()
    inputs = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 4, 8)
    outputs = network(inputs)[0][0]
    assert torch.pdist(outputs).min() > 1e-3


class Backwards(nn.Module):
    def forward(self, inputs, state=None):
        return inputs.flip(1).cumsum(1).flip(1), None


class Forgetful(nn.Module):
    def forward(self, inputs, state=None):
        return inputs.cumsum(1), None


def test_torch_has_networks_that_are_causal():
    for network in (nn.GRU(6, 6, batch_first=True), nn.LSTM(6, 6, batch_first=True)):
        check_causal(network.double(), 6)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Backwards(), "other outputs"),
        (Forgetful(), "other outputs"),
        (nn.GRU(6, 3, batch_first=True, bidirectional=True), "other outputs"),
        (nn.GRU(6, 3, batch_first=True), "outputs"),
        (GRU(5), "one that fails"),
        (nn.Linear(6, 6), "one that fails"),
    ],
)
def test_others_are_refused(network, told):
    with pytest.raises(ValueError, match=f"^network: expected a causal one.*got {told}"):
        check_causal(network, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_end_of_a_sentence_is_not_read(kind):
    encoder = SequenceEncoder((5,), 4, width=8, network=KINDS[kind](), extra=2).double()
    x, y = torch.tensor([[1.0, 3, 0, 0, 0]]).double(), torch.randn(1, 2).double()
    before = encoder(x, y)
    assert before.shape == (1, 8)
    longer = SequenceEncoder((9,), 4, width=8, network=encoder.network, extra=2).double()
    longer.load_state_dict(encoder.state_dict())
    padded = torch.cat([x, torch.zeros(1, 4)], 1)
    torch.testing.assert_close(longer(padded, y), before)
    for i in range(3):
        changed = x.clone()
        changed[0, i] = 2
        assert not torch.allclose(encoder(changed, y), before)
    assert not torch.allclose(encoder(x, y + 1), before)


def test_vectors_are_read_to_the_last():
    encoder = SequenceEncoder((4, 3), width=8)
    x = torch.randn(2, 5, 4, 3, requires_grad=True)
    assert encoder(x).shape == (2, 5, 8)
    encoder(x).sum().backward()
    assert (x.grad != 0).any(-1).all()


def test_networks_side_by_side():
    first, second = MLP((3,), (4,)), MLP((2,), (5,))
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    expected = torch.cat([first(x), second(y)], -1)
    assert torch.equal(SideBySide(first, second)(x, y), expected)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: GRU(0), "width"),
        (lambda: GRU(4, layers=1.5), "layers"),
        (lambda: CausalTransformer(10, heads=4), "width"),
        (lambda: CausalTransformer(8, heads=0), "heads"),
        (lambda: SequenceEncoder((4,), 1), "tokens"),
        (lambda: SequenceEncoder((1, 4, 4)), "event_shape"),
    ],
)
def test_bad_arguments(build, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        build()
