import math

import pytest
import torch
from chance import LEVEL, chance_of
from pyro import poutine
from torch import nn

from pyro_vae import (
    Trainer,
    codebooks,
    data,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    load,
    plots,
    save,
)
from pyro_vae.distributions import OneHotPoint
from pyro_vae.models import VQVAE

SHAPES = {
    (1, 8, 8): (2, 2),
    (7, 5): (2, 2),
    (3, 9, 4): (3, 1),
    (1, 1, 1): (1, 1),
    (5,): (8,),
}


class First(nn.Module):
    """A prior that draws the first code everywhere."""

    def __init__(self, grid, codes):
        super().__init__()
        self.value = nn.functional.one_hot(torch.zeros(grid).long(), codes).float()

    def forward(self):
        return OneHotPoint(self.value).to_event(len(self.value.shape) - 1)


def build(event_shape=(1, 8, 8), codes=6, code_dim=3, **options):
    options = {"likelihood": likelihoods.Bernoulli(), "channels": (4, 5), "blocks": 1, **options}
    return VQVAE(event_shape, codes, code_dim, **options)


@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli(), likelihoods.Categorical(4)])
def test_grids_of_any_data(event_shape, likelihood):
    vqvae = build(event_shape, likelihood=likelihood)
    grid = SHAPES[event_shape]
    assert vqvae.grid_shape == grid
    assert vqvae.latent_sizes == {"z1": math.prod(grid) * 6} and vqvae.latents == ("z1",)
    x = torch.randint(2, (4, *event_shape)).float()
    guide = guides.NearestCode(vqvae)
    assert infer.check_pair(vqvae, guide, x).latents == {"z1": (*grid, 6)}
    assert vqvae.sample(4, prior="uniform").shape == x.shape
    index = guide.codes(x)
    assert index.shape == (4, *grid)
    p_x = vqvae.decode(index)
    assert (p_x.batch_shape, p_x.event_shape) == ((4,), event_shape)
    torch.testing.assert_close(infer.reconstruct(vqvae, guide, x), p_x.mean)
    terms = infer.elbo_terms(vqvae, guide, x)
    torch.testing.assert_close(terms.reconstruction, p_x.log_prob(x))


def test_decoding_takes_numbers_one_hot_codes_and_a_mapping():
    vqvae = build()
    index = torch.randint(6, (3, 2, 2))
    one_hot = nn.functional.one_hot(index, 6).float()
    means = [vqvae.decode(z).mean for z in (index, one_hot, {"z1": index})]
    assert torch.equal(means[0], means[1]) and torch.equal(means[0], means[2])
    e = vqvae.codebook.weight[index]
    torch.testing.assert_close(vqvae.likelihood.mean(vqvae.decoder(e)), means[0])
    for bad in (index + 6, index[0], one_hot[..., :5], index.float()):
        with pytest.raises(ValueError, match="z: expected"):
            vqvae.decode(bad)
    with pytest.raises(ValueError, match="z: expected the site 'z1'"):
        vqvae.decode({"z2": index})


def test_sampling_asks_for_a_fitted_prior():
    vqvae = build()
    message = r"prior=priors.CodePrior\(vqvae\).fit\(guide, data, epochs=20\), or prior='uniform'"
    with pytest.raises(ValueError, match=message):
        vqvae.sample(3)
    assert vqvae.sample(3, prior="uniform", mean=True).shape == (3, 1, 8, 8)
    uniform = codebooks.UniformCodes(vqvae.grid_shape, vqvae.codes)
    assert vqvae.sample(3, prior=uniform).shape == (3, 1, 8, 8)
    assert handlers.replace_prior(vqvae, uniform).sample(3).shape == (3, 1, 8, 8)
    own = First((2, 2), 6)
    first = build(prior=own).eval()
    expected = first.decode(torch.zeros(3, 2, 2, dtype=torch.long)).mean
    torch.testing.assert_close(first.sample(3, mean=True), expected)


def test_codes_are_uniform_a_priori():
    vqvae = build()
    trace = poutine.trace(vqvae).get_trace(size=500)
    z = trace.nodes["z1"]["value"]
    assert z.shape == (500, 2, 2, 6) and torch.equal(z.sum(-1), torch.ones(500, 2, 2))
    assert chance_of(z.sum((0, 1, 2)), 2000, [1 / 6] * 6) > LEVEL
    trace.compute_log_prob()
    assert trace.nodes["z1"]["log_prob"].tolist() == pytest.approx([-4 * math.log(6)] * 500)


def test_own_networks_and_own_grid():
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(9, 64), nn.Unflatten(1, (1, 8, 8)))
    vqvae = build(decoder=decoder, grid=3)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Unflatten(1, (3, 3)))
    guide = guides.NearestCode(vqvae, encoder=encoder)
    assert guide.codes(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_pictures_and_files_work_as_for_any_model(tmp_path):
    vqvae = build()
    guide = guides.NearestCode(vqvae)
    x = torch.randint(2, (4, 1, 8, 8)).float()
    assert len(plots.reconstructions(vqvae, guide, x).axes) == 2
    plots.samples(handlers.replace_prior(vqvae, codebooks.UniformCodes((2, 2), 6)), 4)
    save(guide, tmp_path / "guide.pt")
    again = load(tmp_path / "guide.pt")
    assert torch.equal(again.codes(x), guide.codes(x))
    assert torch.equal(again.model.codebook.sums, vqvae.codebook.sums)


class Small(VQVAE):
    def __init__(self, size):
        super().__init__((size,), 6, 3, likelihood=likelihoods.Gaussian(), hidden=(4,))


class Quick(codebooks.MovingAverage):
    def __init__(self, codes, code_dim):
        super().__init__(codes, code_dim, decay=0.5)


@pytest.mark.parametrize("make", [lambda: Small(5), lambda: build(codebook=Quick(6, 3))])
def test_subclasses_with_arguments_of_their_own_load(make, tmp_path):
    vqvae = make()
    save(guides.NearestCode(vqvae), tmp_path / "guide.pt")
    again = load(tmp_path / "guide.pt").model
    assert (type(again), type(again.codebook)) == (type(vqvae), type(vqvae.codebook))
    assert torch.equal(again.codebook.weight, vqvae.codebook.weight)
    # Files of 0.1 name no codebook either
    assert Small.of_file({"size": 5}) == {"size": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook": codebooks.Gradient(7, 3)}, "codes: expected the codebook's 7, got 6"),
        ({"grid": 3}, r"grid: expected \(2, 2\), the data of shape \(1, 8, 8\) halved 2 times"),
        ({"channels": (0,)}, "channels: expected positive integers"),
        ({"blocks": 1.5}, "blocks: expected a whole number of at least 0, got 1.5"),
        ({"blocks": -1}, "blocks: expected a whole number of at least 0, got -1"),
        ({"decoder": nn.Flatten()}, "decoder: Bernoulli for data of shape"),
        ({"prior": codebooks.UniformCodes((2, 2), 5)}, "prior: expected .* event shape"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_wrong_types_and_data():
    with pytest.raises(TypeError, match="codebook: expected an instance such as"):
        build(codebook=codebooks.Gradient)
    with pytest.raises(TypeError, match="likelihood: expected an instance"):
        build(likelihood=likelihoods.Bernoulli)
    with pytest.raises(ValueError, match="site 'x': expected shape"):
        build()(torch.zeros(2, 1, 8, 7))
    with pytest.raises(ValueError, match="Bernoulli expects only 0 and 1"):
        build()(torch.full((2, 1, 8, 8), 0.5))


def test_print_tells_the_story():
    text = repr(build())
    assert "p(x, z1) = p(x|z1) p(z1)" in text
    assert "z1: 2 x 2 of 6 codes, MovingAverage(6, 3, decay=0.99, revive=Unused(10))" in text


def test_of_a_table_samples_and_reconstructions_know_the_columns(tmp_path):
    columns = [
        data.Column("height", "numeric"),
        data.Column("city", "categorical", ("Bonn", "Kiel", "Rome")),
    ]
    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randn(60, generator=generator), torch.arange(60) % 3.0], 1)
    d = data.Dataset(data.Rows.of(x, columns))
    noise = likelihoods.for_columns(d)
    vqvae = VQVAE((2,), 8, 4, likelihood=noise, columns=d.columns, hidden=(8,), grid=(3,))
    guide = guides.NearestCode(vqvae)
    Trainer(vqvae, guide).fit(d, epochs=1, batch_size=20, progress=False)
    drawn = vqvae.sample(5, prior="uniform")
    assert isinstance(drawn, data.Rows) and drawn.columns == tuple(columns)
    assert drawn[:, 1].unique().tolist() == [*{*drawn[:, 1].tolist()} & {0.0, 1.0, 2.0}]
    save(vqvae, tmp_path / "vqvae.pt")
    assert load(tmp_path / "vqvae.pt").columns == tuple(columns)
    other = data.Dataset(data.Rows.of(x, [data.Column("width", "numeric"), columns[1]]))
    with pytest.raises(ValueError, match="columns of the model, with their categories, got no"):
        diagnostics.evaluate(vqvae, guide, other, importance_samples=0)
    with pytest.raises(ValueError, match="columns: expected one for each number"):
        VQVAE((3,), 8, 4, likelihood=likelihoods.Gaussian(), columns=columns)
