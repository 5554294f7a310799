import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch
from chance import excess
from pyro import poutine
from torch import nn
from torch.utils.data import TensorDataset

from pyro_vae import data
from pyro_vae.data import Dataset, DataSplits
from pyro_vae.guides import BottomUp, Ladder
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import VAE
from pyro_vae.programs.encoding import decode, encode, encode_means
from pyro_vae.programs.labels import as_labels
from pyro_vae.programs.modes import evaluating
from pyro_vae.programs.registration import register, unregistered
from pyro_vae.programs.sites import is_latent
from pyro_vae.programs.values import check_tensor


@pytest.fixture
def vae():
    return VAE((6,), latents=(3, 2), likelihood=Gaussian(0.7), hidden=(5,))


def user_model(x=None, *, size=None):
    n = len(x) if x is not None else size
    with pyro.plate("rows", n):
        top = pyro.sample("top", dist.Normal(1.0, 2.0))
        low = pyro.sample("low", dist.Normal(3 * top, 1.0).expand([n]))
        return pyro.sample("seen", dist.Normal(torch.stack([top, low], -1), 1).to_event(1), obs=x)


def user_guide(x):
    with pyro.plate("rows", len(x)):
        low = pyro.sample("low", dist.Normal(x[:, 1], 0.1))
        pyro.sample("top", dist.Normal(low**2, 0.1))


def names():
    return list(pyro.get_param_store().keys())


def test_every_instance_registers_under_its_own_name(vae):
    other = VAE((6,), latents=(3, 2), likelihood=Gaussian(0.7), hidden=(5,))
    for model in (vae, other, vae):
        model(size=2)
    parameters = [*vae.named_parameters(), *other.named_parameters()]
    assert len(names()) == len(parameters)
    store = pyro.get_param_store()
    for site, (key, parameter) in zip(names(), parameters, strict=True):
        assert site.endswith(f"$$${key}")
        assert store[site].unconstrained() is parameter


def test_a_copy_registers_under_its_own_name(vae):
    vae(size=2)
    before = names()
    clone = copy.deepcopy(vae)
    clone(size=2)
    assert names()[: len(before)] == before
    assert len(names()) == 2 * len(before)
    store = pyro.get_param_store()
    assert {id(store[s].unconstrained()) for s in names()[len(before) :]} == {
        id(p) for p in clone.parameters()
    }


def test_frozen_parameters_are_not_registered(vae):
    vae.conditionals.requires_grad_(False)
    trace = poutine.trace(vae).get_trace(size=2)
    assert [s.split("$$$")[1] for s in trace.param_nodes] == [
        key for key, p in vae.named_parameters() if p.requires_grad
    ]


def test_a_replaced_parameter_replaces_its_entry(vae):
    vae(size=2)
    before = names()
    vae.decoder = copy.deepcopy(vae.decoder)
    vae(size=2)
    assert sorted(names()) == sorted(before)
    store = pyro.get_param_store()
    assert {id(store[s].unconstrained()) for s in names()} == {id(p) for p in vae.parameters()}


def test_a_shared_tensor_has_one_entry_as_long_as_anybody_holds_it():
    shared = nn.Linear(2, 6)
    models = [
        VAE((6,), latents=2, likelihood=Gaussian(), hidden=(), decoder=shared) for _ in range(2)
    ]
    store = pyro.get_param_store()
    for model in models:
        model(size=2)
    assert len(names()) == 2
    del models[0]
    del model
    models[0](size=2)
    assert len(names()) == 2
    assert store.param_name(shared.weight) is not None
    models.clear()
    assert names() == []


def test_parameters_that_are_not_contiguous_are_registered_themselves(vae):
    layer = vae.decoder.layers[0]
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)
    assert not layer.weight.is_contiguous()
    register(vae)
    assert pyro.get_param_store().param_name(layer.weight) is not None


def test_evaluation_and_private_optimizers_leave_the_store_alone(vae):
    with unregistered():
        vae(size=2)
    vae.sample(3)
    vae.decode({"z2": torch.zeros(1, 2)})
    encode(BottomUp(vae), torch.zeros(2, 6))
    assert names() == []
    vae(size=2)
    assert names() != []


def test_unregistered_ends_with_its_block(vae):
    with pytest.raises(ZeroDivisionError), unregistered():
        raise ZeroDivisionError
    vae(size=2)
    assert names() != []


def test_evaluating_restores_every_mode(vae):
    vae.decoder.eval()
    modes = [m.training for m in vae.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(vae, user_guide):
        assert not any(m.training for m in vae.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [m.training for m in vae.modules()] == modes
    assert torch.is_grad_enabled()


def test_encoding_leaves_the_model_alone_whose_conditionals_a_guide_runs():
    norm = {"norm": nn.BatchNorm1d, "hidden": [(8,), (4,)]}
    model = VAE((6,), latents=(3, 2), likelihood=Bernoulli(), **norm)
    guide, x = Ladder(model), torch.rand(20, 6).round()
    with torch.no_grad():
        guide(x)  # in training mode, which moves the running statistics
    before = [b.clone() for b in model.buffers()]
    found = guide.encode(x).mean
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    model.eval()
    expected = guide.encode(x).mean
    assert all(torch.equal(found[site], expected[site]) for site in expected)


def test_means_alone_are_those_of_an_encoding(vae):
    guide, x = BottomUp(vae), torch.randn(5, *vae.event_shape)
    expected, before = guide.encode(x).mean, torch.get_rng_state()
    found = encode_means(guide, x)
    assert list(found) == list(expected)
    assert all(torch.equal(found[site], expected[site]) for site in expected)
    assert torch.equal(before, torch.get_rng_state())


def test_latent_sites_of_a_trace(vae):
    def program(x):
        vae(x)
        pyro.deterministic("total", x.sum())
        pyro.factor("factor", torch.zeros(()))

    trace = poutine.trace(program).get_trace(torch.zeros(2, 6))
    assert [name for name, site in trace.nodes.items() if is_latent(site)] == ["z2", "z1"]


def test_decode_holds_latents_and_fills_the_others_with_conditional_means():
    low = torch.tensor([5.0, 6.0])
    for x in (None, torch.zeros(2, 2)):
        means = decode(user_model, {"low": low}, x=x).mean
        assert torch.equal(means, torch.tensor([[1.0, 5.0], [1.0, 6.0]]))
        means = decode(user_model, {"top": torch.tensor([2.0])}, x=None if x is None else x[:1])
        assert torch.equal(means.mean, torch.tensor([[2.0, 6.0]]))


def test_decode_names_an_unknown_site():
    with pytest.raises(ValueError, match="z: the model has no latent site 'z1'"):
        decode(user_model, {"z1": torch.zeros(1)})


def test_encode_gives_conditional_means_given_means_and_one_joint_draw():
    x = torch.tensor([[0.0, 2.0], [0.0, -3.0]])
    encoding = encode(user_guide, x)
    assert torch.equal(encoding.mean["low"], x[:, 1])
    assert torch.equal(encoding.mean["top"], x[:, 1] ** 2)
    draw = encode(user_guide, x.repeat(2000, 1)).sample
    low, top = draw["low"].unflatten(0, (2000, 2)), draw["top"].unflatten(0, (2000, 2))
    assert excess((low.mean(0) - x[:, 1]) / (0.1 / 2000**0.5)) < 1
    residual = (top - low**2) / 0.1
    assert excess((residual.std() - 1) * (2 * 4000) ** 0.5) < 1


def test_programs_count_their_parameters(vae):
    total = sum(p.numel() for p in vae.parameters())
    assert f"{total:,} parameters" in repr(vae)
    vae.decoder.requires_grad_(False)
    frozen = sum(p.numel() for p in vae.decoder.parameters())
    assert f"{total:,} parameters ({frozen:,} frozen)" in repr(vae)


def test_a_guide_does_not_own_the_parameters_of_its_model(vae):
    guide = BottomUp(vae)
    assert guide.model is vae
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in vae.parameters()}
    assert not any("model" in key for key in guide.state_dict())


LABELS = [
    [1, 2, 1],
    (1, 2, 1),
    np.array([1, 2, 1]),
    np.array([1, 2, 1])[::-1],
    np.array([1, 2, 1], dtype=np.uint8),
    torch.tensor([1, 2, 1], dtype=torch.int32),
    [np.int64(1), torch.tensor(2), 1],
    torch.tensor([[1], [2], [1]]),
]


@pytest.mark.parametrize("y", LABELS, ids=type)
def test_labels_in_every_form(y):
    found = as_labels(y, 3, torch.device("cpu"))
    assert found.dtype == torch.long and found.tolist() == [1, 2, 1]


@pytest.mark.parametrize("y", [2, np.int64(2), torch.tensor(2), np.array(2)], ids=type)
def test_one_label_stands_for_all(y):
    assert as_labels(y, 4, torch.device("cpu")).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (1.0, ValueError, r"y: expected whole numbers, got torch.float64, .* pass y.long\(\)"),
        ([0.5, 1, 2], ValueError, r"y\[0\] = 0.5: .*; number classes 0, 1, ..."),
        ([0.0, 1, 2], ValueError, r"got torch.float64, .* y.astype\(int\) of an array"),
        (torch.zeros(3, 1), ValueError, r"got torch.float32, .* pass y.long\(\)"),
        (np.eye(3), ValueError, r"got \(3, 3\): turn one-hot rows into y.argmax\(1\)"),
        (np.zeros(3), ValueError, r"got torch.float64, .* y.astype\(int\) of an array"),
        ([1, 2], ValueError, r"expected shape \(3,\), one label for each .* got \(2,\)"),
        (
            "cat",
            TypeError,
            r"y: expected integer labels, got .* 'cat': number the classes",
        ),
        (["a", "b", "c"], TypeError, "y: expected integer labels, got text such as 'a'"),
    ],
)
def test_labels_that_are_refused(y, error, message):
    with pytest.raises(error, match=message):
        as_labels(y, 3, torch.device("cpu"))


@pytest.fixture
def conditional():
    vae = VAE((6,), latents=2, likelihood=Gaussian(0.7), hidden=(5,), condition=3)
    return vae, BottomUp(vae)


@pytest.mark.parametrize("y", LABELS, ids=type)
def test_methods_take_labels_in_every_form(conditional, y):
    vae, guide = conditional
    x, z, expected = torch.randn(3, 6), torch.randn(3, 2), torch.tensor([1, 2, 1])
    torch.manual_seed(1)
    drawn = vae.sample(3, y=expected)
    torch.manual_seed(1)
    assert torch.equal(vae.sample(3, y=y), drawn)
    assert torch.equal(vae.decode(z, y=y).mean, vae.decode(z, y=expected).mean)
    codes = [guide.encode(x, y=labels).mean["z1"] for labels in (y, expected)]
    assert torch.equal(*codes)


def test_one_label_encodes_and_decodes_all(conditional):
    vae, guide = conditional
    x, z, all_two = torch.randn(3, 6), torch.randn(3, 2), torch.full((3,), 2)
    assert torch.equal(vae.decode(z, y=2).mean, vae.decode(z, y=all_two).mean)
    assert torch.equal(guide.encode(x, y=2).mean["z1"], guide.encode(x, y=all_two).mean["z1"])


def test_labels_of_a_pair_without_condition_are_ignored_when_encoding(vae):
    guide, x = BottomUp(vae), torch.randn(3, 6)
    assert torch.equal(guide.encode(x, y=[0, 1, 2]).mean["z1"], guide.encode(x).mean["z1"])


def test_errors_come_without_a_table_of_the_trace(conditional):
    vae, guide = conditional
    x, z, nan = torch.zeros(3, 6), torch.zeros(3, 2), torch.full((3, 6), torch.nan)
    calls = {
        "expected integer labels .* got none: pass y=": lambda: vae.sample(3),
        "got none: pass y=": lambda: vae.decode(z),
        r"got none: pass y=$": lambda: guide.encode(x),
        "labels from 0 to 2, got 3 to 3": lambda: vae.sample(3, y=3),
        r"expected shape \(n, 6\) .* got \(6,\)": lambda: guide.encode(x[0], y=1),
        "x: expected finite values, got 18 NaN": lambda: guide.encode(nan, y=1),
        r"z\['z1'\]: expected finite values, got 6": lambda: vae.decode(z / 0, y=1),
        "got torch.float64 data for a model of": lambda: guide.encode(x.double(), y=1),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "Sites" not in str(error.value) and len(str(error.value).splitlines()) == 1


def test_encoding_takes_grey_pixels():
    vae = VAE((6,), latents=2, likelihood=Bernoulli(), hidden=())
    guide, grey = BottomUp(vae), torch.full((2, 6), 0.5)
    expected = guide.conditionals["z1"](grey).mean
    torch.testing.assert_close(guide.encode(grey).mean["z1"], expected.detach())


@pytest.mark.parametrize(
    "wrap",
    [
        Dataset,
        TensorDataset,
        lambda x: x.numpy(),
        lambda x: x.double().numpy()[::-1][::-1],
        lambda x: x.tolist(),
        list,
        lambda x: (x,),
        lambda x: {"x": x},
        scipy.sparse.csr_array,
    ],
)
def test_encoding_takes_data_of_any_kind(vae, wrap):
    x, guide = torch.randn(3, 6), BottomUp(vae)
    assert torch.equal(encode(guide, wrap(x)).mean["z1"], encode(guide, x).mean["z1"])


def test_encoding_takes_the_labels_of_a_data_set(conditional):
    _, guide = conditional
    x, y = torch.randn(3, 6), torch.tensor([0, 2, 1])
    expected = guide.encode(x, y=y).mean["z1"]
    for given in (Dataset(x, y), (x, y), (x.numpy(), ["a", "c", "b"])):
        assert torch.equal(guide.encode(given).mean["z1"], expected)
    assert not torch.equal(guide.encode(Dataset(x, y), y=0).mean["z1"], expected)


def test_what_to_pass_for_a_tensor():
    x = torch.randn(4, 3)
    d = Dataset(x)
    namespace = {"torch": torch, "numpy": np, "data": data}
    for given, advice in (
        (DataSplits("d", d, d), "given.test.x"),
        (d, "given.x"),
        (TensorDataset(x), "given.tensors[0]"),
        (x.numpy()[::-1], "data.Dataset(given).x"),
        (scipy.sparse.csr_array(x), "data.Dataset(given).x"),
        (x[0].tolist(), "torch.from_numpy(numpy.array(given, dtype='float32'))"),
    ):
        with pytest.raises(TypeError, match="x: expected a tensor") as error:
            check_tensor(given)
        way = str(error.value).split(": pass ")[1]
        assert way == advice.replace("given.", "its .").replace("given", "...")
        check_tensor(eval(advice, namespace, {"given": given}))
