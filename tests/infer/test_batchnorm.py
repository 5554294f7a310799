import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae import Trainer, codebooks, guides, likelihoods, models
from pyro_vae.conditionals.normal import DiagonalNormal
from pyro_vae.data import Dataset
from pyro_vae.infer import elbo_terms, recalibrate_batchnorm

X = 2 + 3 * torch.randn(60, 6, generator=torch.Generator().manual_seed(1))


class Counter(nn.Module):
    """State that training moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        if self.training:
            self.calls += 1
        return z


def pair(**norm):
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, **norm), nn.ReLU(), Counter())
    decoder = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    vae = models.VAE((6,), 3, likelihood=likelihoods.Gaussian(), decoder=decoder)
    return vae, guides.BottomUp(vae, encoder=encoder)


def norm_of(guide):
    return guide.conditionals["z1"].network[1]


def assert_statistics(norm, mean, variance):
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


def test_one_full_batch_gives_the_mean_and_variance_of_the_layers_inputs():
    vae, guide = pair(momentum=0.3)
    seen = []
    vae.decoder[1].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    recalibrate_batchnorm(vae, guide, X, batch_size=60)
    h = guide.conditionals["z1"].network[0](X).detach()
    assert_statistics(norm_of(guide), h.mean(0), h.var(0))
    assert len(seen) == 1
    assert_statistics(vae.decoder[1], seen[0].mean(0), seen[0].var(0))
    assert norm_of(guide).momentum == 0.3 and vae.decoder[1].momentum == 0.1


@pytest.mark.parametrize("batch_size", [7, 20, 59])
def test_batches_are_averaged_by_their_rows(batch_size):
    vae, guide = pair(momentum=None)
    seen = []
    norm_of(guide).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    recalibrate_batchnorm(vae, guide, X, batch_size=batch_size)
    h = guide.conditionals["z1"].network[0](X).detach()
    variance = sum(len(b) * b.var(0) for b in seen) / 60
    assert_statistics(norm_of(guide), h.mean(0), variance)
    assert sum(map(len, seen)) == 60 and max(map(len, seen)) <= batch_size
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    if batch_size == 20:
        # Batches of one size: what torch's cumulative average gives
        twin = nn.BatchNorm1d(8, momentum=None)
        for batch in seen:
            twin(batch)
        assert_statistics(norm_of(guide), twin.running_mean, twin.running_var)


def test_a_norm_that_runs_twice_per_batch_counts_both():
    shared = nn.BatchNorm1d(4)
    vae = models.VAE(
        (6,),
        (4, 4),
        likelihood=likelihoods.Gaussian(),
        hidden=(),
        decoder=nn.Sequential(shared, nn.Linear(4, 6)),
    )
    guide = guides.BottomUp(vae, conditionals={"z2": DiagonalNormal(shared, 4, 4)})
    with torch.no_grad():  # almost without noise, so that z1 is known
        guide.conditionals["z1"].raw_scale.bias.fill_(-20.0)
        guide.conditionals["z1"].raw_scale.weight.zero_()
    recalibrate_batchnorm(vae, guide, X, batch_size=15)
    z1 = guide.encode(X).mean["z1"]
    torch.testing.assert_close(shared.running_mean, z1.mean(0), atol=1e-3, rtol=1e-3)
    assert shared.num_batches_tracked == 8


def test_nothing_else_changes():
    vae, guide = pair()
    vae.decoder[0].eval()
    before = copy.deepcopy((vae, guide))
    modes = [m.training for p in (vae, guide) for m in p.modules()]
    state = torch.get_rng_state()
    recalibrate_batchnorm(vae, guide, Dataset(X.sigmoid(), binarize="dynamic"), batch_size=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [m.training for p in (vae, guide) for m in p.modules()]
    for program, old in zip((vae, guide), before, strict=True):
        for (name, new), value in zip(
            program.state_dict().items(), old.state_dict().values(), strict=True
        ):
            moved = "running" in name or "batches_tracked" in name
            assert torch.equal(new, value) is not moved, name
    assert not any(len(m._forward_pre_hooks) for p in (vae, guide) for m in p.modules())
    assert all(p.grad is None for p in vae.parameters())


def test_the_draws_are_the_same_for_the_same_seed():
    vae, guide = pair()
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        recalibrate_batchnorm(vae, guide, X)
        found.append(vae.decoder[1].running_var.clone())
    assert torch.equal(*found)


def test_evaluation_sees_the_new_statistics():
    vae, guide = pair()
    before = elbo_terms(vae, guide, X).elbo.mean()
    for parameter in guide.conditionals["z1"].network[0].parameters():
        parameter.data.mul_(50)
    lagging = elbo_terms(vae, guide, X).elbo.mean()
    recalibrate_batchnorm(vae, guide, X)
    after = elbo_terms(vae, guide, X).elbo.mean()
    assert lagging < before - 100 < after


def test_images_are_counted_by_pixels():
    norm = nn.BatchNorm2d(1)
    vae = models.VAE((1, 4, 4), 2, likelihood=likelihoods.Gaussian(), hidden=())
    guide = guides.BottomUp(vae, encoder=nn.Sequential(norm, nn.Flatten()))
    x = 5 + torch.randn(30, 1, 4, 4)
    recalibrate_batchnorm(vae, guide, x, batch_size=30)
    assert_statistics(norm, x.mean((0, 2, 3)), x.transpose(0, 1).flatten(1).var(1))


class Unused(nn.Module):
    def __init__(self, *, fails=False):
        super().__init__()
        self.norm, self.other, self.fails = nn.BatchNorm1d(6), nn.BatchNorm1d(6), fails
        self.other.running_mean.fill_(7.0)

    def forward(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(self.norm(x)[:, :3], 1.0).to_event(1))
        if self.fails:
            raise RuntimeError("out of memory")
        return z


def test_a_ladder_is_recalibrated_layer_by_layer():
    vae = models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), norm=nn.BatchNorm1d)
    guide, seen = guides.Ladder(vae), {}
    norms = [m for p in (vae, guide) for m in p.modules() if isinstance(m, nn.BatchNorm1d)]
    for norm in norms:
        norm.register_forward_pre_hook(
            lambda m, args: seen.setdefault(m, []).append(args[0].detach().clone())
        )
    recalibrate_batchnorm(vae, guide, X, batch_size=20)
    assert set(seen) == set(norms)
    for norm, inputs in seen.items():
        assert sum(map(len, inputs)) in (60, 120)  # those that the guide borrows run twice
        mean = torch.stack([h.mean(0) for h in inputs]).mean(0)
        variance = torch.stack([h.var(0) for h in inputs]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-4)


def test_a_norm_outside_the_pass_keeps_its_statistics():
    vae, guide = pair()[0], Unused()
    recalibrate_batchnorm(vae, guide, X, batch_size=60)
    assert_statistics(guide.norm, X.mean(0), X.var(0))
    assert_statistics(guide.other, torch.full((6,), 7.0), torch.ones(6))


def test_after_an_error_all_is_as_before():
    vae, guide = pair()[0], Unused(fails=True)
    with pytest.raises(RuntimeError, match="out of memory"):
        recalibrate_batchnorm(vae, guide, X)
    assert_statistics(guide.norm, torch.zeros(6), torch.ones(6))
    assert guide.norm.momentum == 0.1 and not guide.norm._forward_pre_hooks
    assert guide.norm.training and guide.training


def test_what_cannot_be_recalibrated_is_an_error():
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=())
    with pytest.raises(ValueError, match="expected batch normalisation"):
        recalibrate_batchnorm(vae, guides.BottomUp(vae), X)
    without = Unused()
    without.norm = without.other = nn.BatchNorm1d(6, track_running_stats=False)
    with pytest.raises(ValueError, match="expected batch normalisation"):
        recalibrate_batchnorm(vae, without, X)
    with pytest.raises(ValueError, match="data: expected at least 2"):
        recalibrate_batchnorm(*pair(), X[:1])
    with pytest.raises(ValueError, match="batch_size: expected a whole number of at least 2"):
        recalibrate_batchnorm(*pair(), X, batch_size=1)


def normalised(shape, norm, **options):
    vae = models.VAE(shape, 2, likelihood=likelihoods.Gaussian(), norm=norm, **options)
    return vae, guides.BottomUp(vae)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_last_batch_of_one_is_known_at_the_start(engine):
    vae, guide = normalised((6,), nn.BatchNorm1d, hidden=(8,))
    before = [b.clone() for p in (vae, guide) for b in p.buffers()]
    state, trainer = torch.get_rng_state(), Trainer(vae, guide, engine=engine)
    x = torch.zeros(51, 6).uniform_(generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        ValueError, match=r"one of 51 data by 10: pass batch_size=11, or to a Data"
    ):
        trainer.fit(x, batch_size=10, epochs=1, progress=False)
    assert trainer.step == 0 and torch.equal(torch.get_rng_state(), state)
    after = [b for p in (vae, guide) for b in p.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    batches = DataLoader(x, batch_size=10)
    with pytest.raises(ValueError, match="last batch of one"):
        trainer.fit(batches, epochs=1, progress=False)
    # The advice
    trainer.fit(x, batch_size=11, epochs=1, progress=False)
    trainer.fit(DataLoader(x, batch_size=10, drop_last=True), epochs=1, progress=False)
    assert trainer.step == 10


def test_a_last_batch_of_one_that_can_be_normalised():
    """A picture of many pixels has a variance; a normalisation at rest needs none."""
    x = torch.rand(9, 1, 16, 16)
    vae = models.VAE((1, 16, 16), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    encoder = nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.BatchNorm2d(2), nn.Flatten())
    trainer = Trainer(vae, guides.BottomUp(vae, encoder=encoder))
    assert trainer.fit(x, batch_size=8, epochs=1, progress=False).step == 2
    vae, guide = normalised((6,), nn.LayerNorm, hidden=(8,))
    assert (
        Trainer(vae, guide).fit(torch.rand(9, 6), batch_size=8, epochs=1, progress=False).step == 2
    )


def test_looking_for_a_last_batch_of_one_begins_no_codebook():
    """The first codes are those of the first batch."""
    codebook = codebooks.MovingAverage(4, 2)
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Gaussian(1.0), "norm": nn.BatchNorm1d}
    model = models.VQVAE((1, 8, 8), codebook=codebook, **options)

    class Start:
        def on_fit_begin(self, **kwargs):
            assert not codebook.initialized

    trainer = Trainer(model, guides.NearestCode(model), seed=0, engine="eager")
    x = torch.rand(9, 1, 8, 8)
    trainer.fit(x, epochs=1, batch_size=4, callbacks=[Start()], progress=False)
    assert codebook.initialized
