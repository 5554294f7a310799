import pytest
import torch
from torch import nn

from pyro_vae import data, diagnostics, guides, infer, likelihoods
from pyro_vae.data.given import as_dataset
from pyro_vae.infer.terms import dataset_terms
from pyro_vae.models import VAE
from pyro_vae.programs.given import matched
from pyro_vae.programs.placing import device_of

X = torch.randn(23, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(23) % 3


def pair(latents=(3, 2), guide=guides.BottomUp, likelihood=None, **options):
    likelihood = likelihood or likelihoods.Gaussian()
    vae = VAE((6,), latents, likelihood=likelihood, hidden=(8,), **options)
    return vae, guide(vae)


@pytest.mark.parametrize("given", [X, (X, None), [X, None], data.Dataset(X)], ids=type)
def test_every_form_of_data_is_a_data_set(given):
    found = as_dataset(given)
    assert torch.equal(found.x, X) and found.y is None
    assert as_dataset(found) is found


def test_labels_come_along():
    assert torch.equal(as_dataset((X, Y)).y, Y)


def test_a_name_is_an_error_with_its_way_out():
    with pytest.raises(
        TypeError, match=r"data: expected data in memory, .*data\.load\('digits'\)"
    ):
        as_dataset("digits")
    with pytest.raises(TypeError, match=r"expected a tensor, .* got NoneType"):
        as_dataset(None)


@pytest.mark.parametrize("batch_size", [1, 10, 23, 99])
def test_a_whole_set_is_the_sum_of_its_batches(batch_size):
    """A deterministic guide has the same terms whatever the batches."""
    model, guide = pair(guide=guides.Delta)
    found = dataset_terms(model, guide, data.Dataset(X), batch_size=batch_size)
    expected = infer.elbo_terms(model, guide, X)
    torch.testing.assert_close(found.elbo, expected.elbo)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    torch.testing.assert_close(found.kl, expected.kl)


def test_no_batch_is_larger_than_asked_for():
    model, guide = pair()
    sizes = []
    guide.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    dataset_terms(model, guide, data.Dataset(X), batch_size=10)
    assert sizes == [10, 10, 3]


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("estimator", [None, infer.TraceELBO()], ids=type)
def test_one_batch_is_elbo_terms(samples, estimator):
    model, guide = pair(condition=3)
    options = {"samples": samples, "estimator": estimator}
    found = dataset_terms(model, guide, data.Dataset(X, Y), **options)
    expected = infer.elbo_terms(model, guide, X, y=Y, **options)
    assert torch.equal(found.elbo, expected.elbo) and found.kl.keys() == expected.kl.keys()


def test_closed_form_for_every_datum(linear):
    x, guide = linear.data(40), linear.guide(shift=0.2, widen=1.5)
    mean, sd = linear.posterior(x)
    mean, sd = mean + 0.2, 1.5 * sd
    terms = dataset_terms(
        linear.vae, guide, data.Dataset(x), batch_size=7, estimator=infer.AnalyticELBO()
    )
    torch.testing.assert_close(terms.kl["z1"], linear.kl(mean, sd), rtol=1e-4, atol=1e-5)


def test_dynamic_binarisation_is_drawn_once_for_all_samples():
    """A constant code makes log p(x|z) linear in x, so that all samples see one x."""
    model, guide = pair(2, guides.Delta, likelihoods.Bernoulli())
    nn.init.zeros_(guide.conditionals["z1"].loc.weight)
    grey = data.Dataset(X.sigmoid(), binarize="dynamic")
    found = dataset_terms(model, guide, grey, samples=8).reconstruction
    logits = model.decoder(guide.encode(X).mean["z1"]).detach()
    once = torch.stack(
        [
            likelihoods.Bernoulli()(logits).log_prob(x).sum(-1)
            for x in ((torch.arange(64)[:, None] >> torch.arange(6)) & 1)[:, None].float()
        ]
    )
    assert ((once - found).abs().min(0).values < 1e-4).all()
    assert found.unique().numel() > 10


def test_no_state_changes():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    model = VAE((6,), 2, likelihood=likelihoods.Gaussian())
    guide = guides.BottomUp(model, encoder=encoder)
    grey = data.Dataset(X.sigmoid(), binarize="dynamic")
    before = {k: v.clone() for k, v in guide.state_dict().items()}, torch.get_rng_state()
    terms = dataset_terms(model, guide, grey)
    torch.testing.assert_close(dict(guide.state_dict()), before[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before[1])
    assert encoder[1].training and not terms.elbo.requires_grad


def test_the_device_of_programs():
    meta = torch.device("meta")
    linear = nn.Linear(2, 2, device="meta")
    default = torch.device("cpu")
    assert device_of(print, linear, default=default) == meta
    assert device_of(linear, nn.Linear(2, 2), default=default) == meta
    assert device_of(print, nn.ReLU(), default=default) == default


def test_data_follow_the_dtype_and_device_of_a_pair():
    grey = data.Dataset(X.sigmoid(), Y, binarize="dynamic", names=["a", "b", "c"])
    model, guide = pair()
    assert matched(grey, model, guide).x.dtype == torch.float32
    found = matched(grey, len, model.double(), guide)
    assert found.x.dtype == torch.float64 and torch.equal(found.x.float(), grey.x)
    assert found.batch(torch.arange(3))[0].dtype == torch.float64
    assert (found.names, found.binarize) == (grey.names, "dynamic")
    assert torch.equal(found.y, Y) and grey.x.dtype == torch.float32
    assert matched(found, model, guide).x.dtype == torch.float64
    assert matched(grey, len).x.dtype == torch.float32
    assert matched(grey, nn.Linear(2, 2, device="meta"), device="cpu").device.type == "cpu"


def test_a_pair_in_double_precision_has_the_same_bound():
    model, guide = pair(guide=guides.Delta)
    single = dataset_terms(model, guide, data.Dataset(X)).elbo
    model, guide = model.double(), guide.double()
    found = dataset_terms(model, guide, matched(data.Dataset(X), model, guide)).elbo
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), single, rtol=1e-4, atol=1e-4)
    result = diagnostics.evaluate(model, guide, X, importance_samples=0)
    assert torch.equal(result.terms.elbo, found)
