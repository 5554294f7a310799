"""Switching from one sigma to sigma(z): nothing jumps, and the pair stays what it was."""

import copy
import math
import pickle
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import Trainer, callbacks, guides, handlers, infer, load
from pyro_vae.likelihoods import Bernoulli, Gaussian, LearnedSigma, PredictedSigma
from pyro_vae.models import VAE, PixelDecoder

MODELS = {
    "vector": ((6,), 3, {"hidden": (8,)}),
    "linear": ((6,), 3, {"hidden": ()}),
    "skip": ((6,), (3, 2), {"hidden": (8,), "skip": True}),
    "condition": ((6,), 3, {"hidden": (8,), "condition": 2}),
    "image": ((1, 8, 8), 3, {}),
    "skip image": ((7, 5), (3, 2), {"skip": True}),
    "batch norm": ((6,), 3, {"hidden": (8,), "norm": nn.BatchNorm1d}),
    "own decoder": ((6,), 3, {"hidden": (8,), "decoder": nn.Linear(3, 6)}),
}
KINDS = [0.5, 1e-5, "learned", "optimal", "per_pixel"]


def trained(sigma="learned", model="vector", **options):
    event_shape, latents, given = copy.deepcopy(MODELS[model])
    vae = VAE(event_shape, latents, likelihood=Gaussian(sigma), **given)
    x = 0.3 * torch.randn(40, *event_shape)
    data = (x, torch.arange(40) % 2) if vae.condition else x
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0, **options)
    return trainer.fit(data, epochs=2, batch_size=20, progress=False), data


def terms(trainer, data):
    x, y = data if isinstance(data, tuple) else (data, None)
    return infer.elbo_terms(trainer.model, trainer.guide, x, y=y)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sigma", KINDS)
def test_the_bound_is_the_same_to_the_last_bit(sigma, model):
    trainer, data = trained(sigma, model)
    before = terms(trainer, data)
    stood = trainer.model.likelihood.sigma.clone()
    trainer.model.predict_sigma()
    after = terms(trainer, data)
    assert torch.equal(after.elbo, before.elbo)
    assert torch.equal(after.reconstruction, before.reconstruction)
    torch.testing.assert_close(
        trainer.model.likelihood.sigma, stood.log().mean().exp(), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("model", MODELS)
def test_training_goes_on_and_sigma_depends_on_z(model, engine):
    trainer, data = trained("learned", model, engine=engine)
    mean = trainer.model.decoder
    trainer.model.predict_sigma()
    weight = next(mean.parameters()).clone()
    trainer.fit(data, epochs=3, batch_size=20, progress=False)
    assert not torch.equal(next(mean.parameters()), weight)
    z = {site: torch.randn(5, size) for site, size in trainer.model.latent_sizes.items()}
    y = torch.zeros(5, dtype=torch.long) if trainer.model.condition else None
    sigma = trainer.model.decode(z, y=y).stddev
    assert (sigma.flatten(1).std(0) > 0).all()
    assert trainer.history[-1]["sigma_min"] < trainer.history[-1]["sigma_max"]


def test_a_recorded_graph_follows_the_switch():
    runs = []
    for engine in ("eager", "graph"):
        torch.manual_seed(0)
        vae = VAE((6,), 3, likelihood=Gaussian("learned"), hidden=(8,))
        guide = guides.BottomUp(vae)
        x = torch.randn(4, 10, 6)
        losses = []
        graph = infer.Graph(infer.TraceELBO()) if engine == "graph" else infer.TraceELBO()
        for batch in (*x, None, *x):
            if batch is None:
                vae.predict_sigma()
                continue
            vae.zero_grad()
            loss, _ = graph(vae, guide, batch)
            loss.backward()
            losses.append(loss.detach())
        runs.append((losses, [p.grad for p in vae.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_optimizer_state_of_the_mean_is_kept():
    trainer, data = trained()
    weight = trainer.model.decoder.layers[0].weight
    steps = trainer.optimizer.state[weight]["step"].clone()
    trainer.model.predict_sigma()
    trainer.fit(data, epochs=1, batch_size=20, progress=False)
    assert trainer.model.decoder.mean.layers[0].weight is weight
    assert trainer.optimizer.state[weight]["step"] == steps + 2


def test_the_switch_says_what_trains():
    trainer, _ = trained()
    phase = trainer.model.predict_sigma(freeze=[trainer.model, trainer.guide])
    assert phase.trained == [
        f"decoder.log_sigma.layers.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")
    ]
    assert phase.frozen and all(name.startswith("decoder.mean.") for name in phase.frozen)
    numbers = (3 + 1) * 8 + (8 + 1) * 6
    assert str(phase) == (
        f"trains 4 tensors, {numbers} numbers: decoder.log_sigma\n"
        f"rests 4 tensors, {numbers} numbers: decoder.mean"
    )
    assert not any(p.requires_grad for p in trainer.guide.parameters())


def test_all_else_can_rest_and_be_woken():
    trainer, data = trained()
    vae, guide = trainer.model, trainer.guide
    guide.conditionals["z1"].loc.bias.requires_grad_(False)  # by the user, before
    phase = vae.predict_sigma(freeze=[vae, guide])
    resting = {**dict(vae.decoder.mean.named_parameters()), **dict(guide.named_parameters())}
    before = {name: p.clone() for name, p in resting.items()}
    bound = terms(trainer, data).elbo.mean()
    trainer.fit(data, epochs=20, batch_size=20, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in resting.items())
    assert terms(trainer, data).elbo.mean() > bound
    phase.unfreeze()
    trainer.fit(data, epochs=1, batch_size=20, progress=False)
    moved = {name for name, p in resting.items() if not torch.equal(p, before[name])}
    assert moved == set(resting) - {"conditionals.z1.loc.bias"}


@pytest.mark.parametrize("model", ["vector", "skip", "image", "skip image"])
def test_the_file_holds_the_switched_pair(model, tmp_path):
    trainer, data = trained("learned", model)
    vae = trainer.model
    vae.predict_sigma(freeze=[vae])
    trainer.fit(data, epochs=2, batch_size=20, progress=False)
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt")
    assert torch.equal(terms(again, data).elbo, terms(trainer, data).elbo)
    for t in (trainer, again):
        t.fit(data, epochs=1, batch_size=20, progress=False)
    assert torch.equal(terms(again, data).elbo, terms(trainer, data).elbo)
    assert [p.requires_grad for p in again.model.parameters()] == [
        p.requires_grad for p in vae.parameters()
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_copies_switch_on_their_own(dtype):
    vae = trained()[0].model.to(dtype)
    twin = copy.deepcopy(vae)
    twin.predict_sigma()
    assert {p.dtype for p in twin.parameters()} == {dtype}
    assert vae.decoder(torch.zeros(2, 3, dtype=dtype)).shape == (2, 6)
    assert twin.decoder(torch.zeros(2, 3, dtype=dtype)).shape == (2, 6, 2)
    vae.predict_sigma()
    z = torch.randn(4, 3, dtype=dtype)
    assert torch.equal(vae.decode(z).stddev, twin.decode(z).stddev)


def test_a_likelihood_knows_no_model_and_says_whose_call_it_is():
    vae = trained()[0].model
    for likelihood in (vae.likelihood, copy.deepcopy(vae.likelihood), Gaussian("learned")):
        with pytest.raises(AttributeError, match=r"of its likelihood: use vae\.predict_sigma\(\)"):
            likelihood.predict_sigma(freeze=[vae])
    assert vae.decoder(torch.zeros(2, 3)).shape == (2, 6)
    again = pickle.loads(pickle.dumps(vae))
    again.predict_sigma()
    assert again.decoder(torch.zeros(2, 3)).shape == (2, 6, 2)
    assert vae.decoder(torch.zeros(2, 3)).shape == (2, 6)


def test_a_model_goes_when_nobody_holds_it():
    vae = VAE((6,), 3, likelihood=Gaussian("learned"), hidden=(8,))
    likelihood, watch = vae.likelihood, weakref.ref(vae)
    vae.predict_sigma()
    del vae
    assert watch() is None and isinstance(likelihood.noise, PredictedSigma)


def test_stock_pyro_trains_on():
    vae = VAE((6,), 3, likelihood=Gaussian(LearnedSigma(initial=0.5)), hidden=(8,))
    guide = guides.BottomUp(vae)
    svi = pyro.infer.SVI(vae, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    x = torch.randn(30, 6) * torch.tensor([0.1, 0.1, 0.1, 1, 1, 1])
    for _ in range(5):
        svi.step(x)
    vae.predict_sigma()
    losses = [svi.step(x) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])
    sigma = vae.decode(torch.zeros(1, 3)).stddev[0]
    assert sigma[:3].max() < sigma[3:].min()


def test_the_importance_estimate_is_the_same_at_the_switch():
    trainer, data = trained()
    before = infer.importance(trainer.model, trainer.guide, data, samples=50).log_likelihood
    trainer.model.predict_sigma()
    after = infer.importance(trainer.model, trainer.guide, data, samples=50).log_likelihood
    assert torch.equal(after, before)


def test_a_model_under_a_handler_switches():
    scaled = handlers.scale_latents(trained()[0].model, 0.5)
    scaled.predict_sigma()
    assert scaled.decoder(torch.zeros(2, 3)).shape == (2, 6, 2)


def test_refusals():
    vae = VAE((6,), 3, likelihood=Gaussian("predicted"), hidden=(8,))
    with pytest.raises(ValueError, match="not predicted yet, got PredictedSigma"):
        vae.predict_sigma()
    with pytest.raises(ValueError, match="after: expected a whole number of at least 1, got 0"):
        callbacks.PredictSigma(after=0)


def pixels():
    decoder = PixelDecoder((1, 4, 4), 3, layers=2, width=4)
    return VAE((1, 4, 4), 3, likelihood=Gaussian("learned"), decoder=decoder)


def test_a_switch_that_is_refused_changes_nothing():
    cases = [
        (VAE((6,), 3, likelihood=Bernoulli(), hidden=(8,)), ValueError, "Gaussian, got Bernoulli"),
        (pixels(), ValueError, "sees latents only, got PixelDecoder: build it with outputs=2"),
        (trained()[0].model, TypeError, "not iterable"),
    ]
    for vae, error, message in cases:
        before, modules = copy.deepcopy(vae.state_dict()), list(vae.modules())
        with pytest.raises(error, match=message):
            vae.predict_sigma(freeze=vae)
        assert list(vae.modules()) == modules and vae.state_dict().keys() == before.keys()
        assert all(p.requires_grad for p in vae.parameters())


def test_a_subclass_switches_and_loads(tmp_path):
    class Mine(VAE):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    vae = Mine((6,), 3, likelihood=Gaussian("per_pixel"), hidden=(8,))
    trainer = Trainer(vae, guides.BottomUp(vae))
    vae.predict_sigma(freeze=[vae, trainer.guide])
    trainer.save(tmp_path / "file.pt")
    again = load(tmp_path / "file.pt").model
    z = torch.randn(4, 3)
    assert type(again) is Mine and torch.equal(again.decode(z).stddev, vae.decode(z).stddev)


# Callbacks


class Own(nn.Module):
    """A program with a Gaussian likelihood and no more."""

    latents = ("z",)

    def __init__(self):
        super().__init__()
        self.decoder, self.likelihood = nn.Linear(2, 6), Gaussian("learned")

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z)).to_event(1), obs=x)


class OwnGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Linear(6, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.mean(x), 1).to_event(1))


def test_the_callback_refuses_before_the_first_step():
    vae, drawn = VAE((6,), 3, likelihood=Bernoulli(), hidden=(8,)), pixels()
    cases = [
        (vae, guides.BottomUp(vae), torch.zeros(5, 6), ValueError, "Gaussian, got Bernoulli"),
        (drawn, guides.BottomUp(drawn), torch.randn(5, 1, 4, 4), ValueError, "sees latents only"),
        (Own(), OwnGuide(), torch.randn(5, 6), TypeError, "with predict_sigma, got Own: use"),
    ]
    for model, guide, x, error, message in cases:
        trainer = Trainer(model, guide)
        with pytest.raises(error, match=message):
            trainer.fit(x, epochs=1, callbacks=[callbacks.PredictSigma(3)], progress=False)
        assert trainer.step == 0


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_the_callback_switches_within_a_run(engine, capsys):
    """As two runs with a switch between them, where nothing is frozen."""
    runs = []
    for within in (True, False):
        torch.manual_seed(0)
        vae = VAE((6,), 3, likelihood=Gaussian("learned"), hidden=(8,))
        trainer = Trainer(vae, guides.BottomUp(vae), seed=0, engine=engine)
        x = torch.linspace(-1, 1, 240).reshape(40, 6)
        switch = callbacks.PredictSigma(after=2)
        for epochs in (4,) if within else (2, 2):
            trainer.fit(x, epochs=epochs, batch_size=20, callbacks=[switch], progress=False)
        assert switch.phase is not None and switch.phase.frozen == []
        runs.append(trainer)
    assert runs[0].history.column("elbo") == runs[1].history.column("elbo")
    assert "epoch 2: sigma is predicted from here on\ntrains 8 tensors" in capsys.readouterr().out


def test_the_callback_trains_sigma_alone_for_a_while():
    trainer, data = trained()
    mean, guide = trainer.model.decoder, trainer.guide
    seen = []

    class Sums:
        def on_epoch_end(self, trainer, row, **kwargs):
            rest = sum(p.detach().double().sum() for m in (mean, guide) for p in m.parameters())
            head = getattr(trainer.model.decoder, "log_sigma", nn.Identity())
            own = sum(p.detach().double().abs().sum() for p in head.parameters())
            seen.append((float(rest), float(own)))

    switch = callbacks.PredictSigma(after=4, alone=2)
    trainer.fit(data, epochs=6, batch_size=20, callbacks=[Sums(), switch], progress=False)
    rest, own = zip(*seen, strict=True)
    # Epochs 3 to 8; the switch at the end of epoch 4, all together after epoch 6
    assert own[:2] == (0.0, 0.0) and len(set(own[2:])) == 4
    assert rest[0] != rest[1] == rest[2] == rest[3] != rest[4] != rest[5]


@pytest.mark.parametrize("first", [True, False])
def test_the_best_state_of_another_structure_is_forgotten(first):
    trainer, data = trained()
    keep, switch = callbacks.KeepBest("objective"), callbacks.PredictSigma(after=3)
    both = [keep, switch] if first else [switch, keep]
    trainer.fit(data, epochs=1, batch_size=20, callbacks=both, progress=False)
    assert keep.best_epoch == 3
    both = [keep, callbacks.PredictSigma(after=5)]
    trainer, data = trained()
    trainer.fit(data, epochs=6, batch_size=20, callbacks=both, progress=False)
    assert keep.best_epoch in (6, 7, 8)


@pytest.mark.parametrize("sigma", ["learned", "optimal", "per_pixel"])
def test_alternating_updates_set_sigma_to_the_closed_form(sigma):
    torch.manual_seed(0)
    vae = VAE((6,), 3, likelihood=Gaussian(sigma), hidden=(8,))
    x = torch.randn(50, 6) * torch.linspace(0.1, 1, 6)
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
    squares = []

    class Measure:
        def on_epoch_end(self, trainer, **kwargs):
            squares.append(infer.mean_squared_error(vae, trainer.guide, x, batch_size=20))

    both = [Measure(), callbacks.UpdateSigma(x, batch_size=20)]
    trainer.fit(x, epochs=3, batch_size=25, callbacks=both, progress=False)
    square = squares[-1] if sigma == "per_pixel" else squares[-1].mean()
    torch.testing.assert_close(vae.likelihood.sigma.double(), square.sqrt(), rtol=1e-6, atol=0)
    assert len({float(s.mean()) for s in squares}) == 3
    row = trainer.history[-1]["sigma"]
    assert row == pytest.approx(vae.likelihood.sigma.log().mean().exp().item(), rel=1e-6)
    assert all(p.requires_grad for p in vae.parameters())


def test_alternating_updates_need_a_sigma():
    vae = VAE((6,), 3, likelihood=Bernoulli(), hidden=(8,))
    trainer = Trainer(vae, guides.BottomUp(vae))
    update = [callbacks.UpdateSigma(torch.zeros(5, 6))]
    with pytest.raises(ValueError, match="likelihood, got none: use likelihoods"):
        trainer.fit(torch.zeros(5, 6), epochs=1, callbacks=update, progress=False)
    vae = VAE((6,), 3, likelihood=Gaussian("predicted"), hidden=(8,))
    with pytest.raises(TypeError, match="one with a value of its own, got PredictedSigma"):
        Trainer(vae, guides.BottomUp(vae)).fit(
            torch.zeros(5, 6), epochs=1, callbacks=update, progress=False
        )


def test_mean_squared_error_of_a_linear_gaussian_pair(linear):
    """E[(x_k - g_k(z))^2] over the exact posterior is a closed form."""
    x = linear.data(4000)
    got = infer.mean_squared_error(linear.vae, linear.guide(), x)
    mean, sd = linear.posterior(x)
    residual = (x - mean @ linear.W.T - linear.b).square().mean(0)
    expected = residual + linear.W.square() @ sd.square()
    torch.testing.assert_close(got.float(), expected, rtol=5 * math.sqrt(2 / 4000), atol=0)
