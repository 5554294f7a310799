"""Default networks for tables: a linear path, and a first fit that begins as a linear model."""

import pytest
import torch
from linear_models import exact
from pyro.distributions import Normal
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import Trainer, data, guides, infer, likelihoods, load, networks, save
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

N, D, K = 120, 6, 2
# Steps of it change nothing that float32 can tell
STILL = 1e-12


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(3)
    z, noise = torch.randn(N, K, generator=generator), torch.randn(N, D, generator=generator)
    x = z @ torch.randn(K, D, generator=generator) + noise * torch.linspace(0.3, 0.9, D)
    columns = [data.Column(f"c{i}", "numeric") for i in range(D)]
    return data.Dataset(x * torch.arange(1, D + 1) + 5, columns=columns)


def pair(table, sigma=None, family=guides.BottomUp, **options):
    noise = likelihoods.for_columns(table) if sigma is None else None
    options.setdefault("likelihood", noise or Gaussian.standardized(table.x, sigma))
    options.setdefault("columns", table.columns)
    vae = VAE((D,), options.pop("latents", K), **options)
    return vae, family(vae)


def fitted(vae, guide, table, **options):
    return Trainer(vae, guide, seed=0, lr=STILL).fit(table, epochs=1, progress=False, **options)


@pytest.mark.parametrize("sigma", [None, "per_pixel", "learned"])
def test_the_first_fit_of_a_table_begins_as_the_linear_model(table, sigma):
    vae, guide = pair(table, sigma)
    name = "probabilistic PCA" if sigma == "learned" else "factor analysis"
    told = f"linear paths beside the networks of x; the first fit with a BottomUp begins as {name}"
    assert told in repr(vae)
    fitted(vae, guide, table)
    found = infer.importance(vae, guide, table.x, samples=5)
    expected = exact(table.x, sigma, K)
    torch.testing.assert_close(found.log_likelihood.double(), expected, atol=1e-3, rtol=0)
    # The guide is the posterior
    assert found.standard_error.max() < 1e-3


def test_columns_of_other_kinds_have_linear_paths_alone(table):
    mixed = torch.cat([table.x, torch.poisson(torch.full((N, 1), 30.0))], 1)
    table = data.Dataset(mixed, columns=[*table.columns, data.Column("n", "count")])
    likelihood = likelihoods.for_columns(table)
    vae = VAE((D + 1,), K, likelihood=likelihood)
    guide = guides.BottomUp(vae)
    assert "linear paths beside the networks of x\n" in repr(vae)
    assert isinstance(vae.decoder, networks.Shortcut)
    # What the network of the guide is given is seen by its heads as well
    assert guide.conditionals["z1"].loc.in_features == 256 + D + 1
    before = vae.decoder.linear.weight.clone()
    fitted(vae, guide, table)
    torch.testing.assert_close(vae.decoder.linear.weight, before)


@pytest.mark.parametrize("latents", [K, (4, 2)])
@pytest.mark.parametrize("family", [guides.BottomUp, guides.Ladder, guides.FullCovariance])
def test_all_guides_of_a_table_train_and_are_saved(table, latents, family, tmp_path):
    vae, guide = pair(table, latents=latents, family=family)
    trainer = Trainer(vae, guide, seed=0).fit(table, epochs=2, progress=False)
    save(trainer, tmp_path / "pair.pt")
    again = load(tmp_path / "pair.pt")
    found = []
    for each in (trainer, again):
        torch.manual_seed(0)
        found.append(infer.elbo_terms(each.model, each.guide, table.x).elbo)
    assert torch.equal(*found) and "as factor analysis" not in repr(vae)


def test_other_data_have_the_networks_that_they_had(table):
    vae = VAE((D,), K, likelihood=Gaussian.standardized(table.x, "per_pixel"))
    guide = guides.BottomUp(vae)
    assert type(vae.decoder) is networks.MLP and "linear" not in repr(vae)
    assert guide.conditionals["z1"].loc.in_features == 256
    before = [p.clone() for p in (*vae.parameters(), *guide.parameters())]
    fitted(vae, guide, table)
    after = (*vae.parameters(), *guide.parameters())
    assert all(torch.allclose(a, b) for a, b in zip(before, after, strict=True))


class Wide(torch.nn.Module):
    """A prior that is not N(0, I)."""

    def forward(self):
        return Normal(torch.zeros(K), 3.0).to_event(1)


def trained(table):
    vae, guide = pair(table)
    Trainer(vae, guide, seed=0, lr=0.1).fit(table, epochs=1, progress=False)
    return vae, guides.BottomUp(vae)


def frozen(table):
    vae, guide = pair(table)
    vae.requires_grad_(False)
    return vae, guide


def encoded(table):
    vae, _ = pair(table)
    return vae, guides.BottomUp(vae, encoder=networks.MLP((D,), (4,), skip=True))


KEPT = {
    "trained": trained,
    "frozen": frozen,
    "own encoder": encoded,
    "own decoder": lambda table: pair(table, decoder=networks.Shortcut(K, (D,))),
    "another guide": lambda table: pair(table, family=guides.FullCovariance),
    "two layers": lambda table: pair(table, latents=(3, 2)),
    "as many latents as columns": lambda table: pair(table, latents=D),
    "prior of its own": lambda table: pair(table, top_down={"z1": Wide()}),
    "normalised": lambda table: pair(table, norm=torch.nn.LayerNorm),
    "sigma of the decoder": lambda table: pair(table, "predicted"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_pair_that_is_another_begins_where_it_is(table, name):
    vae, guide = KEPT[name](table)
    parameters = [*vae.parameters(), *guide.parameters()]
    before = [p.clone() for p in parameters]
    fitted(vae, guide, table)
    for now, then in zip(parameters, before, strict=True):
        torch.testing.assert_close(now, then)


def test_a_loader_and_a_second_fit_leave_the_weights_alone(table):
    vae, guide = pair(table)
    before = vae.decoder.linear.weight.clone()
    loader = DataLoader(TensorDataset(table.x), batch_size=60)
    fitted(vae, guide, loader)
    torch.testing.assert_close(vae.decoder.linear.weight, before)
    vae, guide = pair(table)
    trainer = fitted(vae, guide, table)
    begun = vae.decoder.linear.weight.clone()
    trainer.fit(data.Dataset(2 * table.x, columns=table.columns), epochs=1, progress=False)
    torch.testing.assert_close(vae.decoder.linear.weight, begun)


def test_sigma_can_be_predicted_from_where_it_stands(table):
    vae, guide = pair(table, "learned")
    fitted(vae, guide, table)
    torch.manual_seed(0)
    before = infer.elbo_terms(vae, guide, table.x).elbo
    vae.predict_sigma()
    torch.manual_seed(0)
    torch.testing.assert_close(infer.elbo_terms(vae, guide, table.x).elbo, before)
