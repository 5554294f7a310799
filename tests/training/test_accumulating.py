"""``fit(accumulate=k)`` takes the steps of whole batches, up to rounding, in parts."""

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from pyro_vae import (
    Trainer,
    callbacks,
    codebooks,
    guides,
    handlers,
    infer,
    likelihoods,
    models,
    regularizers,
)
from pyro_vae.callbacks import LRScheduler

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))


def trainer(*, likelihood=None, guide=guides.Delta, norm=None, **options):
    """A pair that draws nothing, so that a batch and its parts give the same numbers."""
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Gaussian(1.0)
    model = models.VAE((6,), (3, 2), likelihood=likelihood, hidden=(8,), norm=norm)
    return Trainer(model, guide(model), seed=3, **options)


def fit(trainer, data=X, **options):
    return trainer.fit(data, **{"epochs": 2, "batch_size": 11, "progress": False, **options})


def rows(trainer):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


def tensors(trainer):
    return [v for module in trainer.modules() for v in module.state_dict().values()]


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_run_is_that_of_whole_batches(engine):
    """11 data in 4 parts, the last batch of 6; clipped, with schedules of beta and the rate."""
    found = []
    for accumulate in (1, 4):
        t = trainer(optimizer=torch.optim.SGD, lr=1e-2, clip_norm=0.5, engine=engine, beta=0.5)
        schedule = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)
        epochs = 2 if engine == "eager" else 9  # a record is made after 25 calls
        found.append(fit(t, accumulate=accumulate, epochs=epochs, callbacks=[schedule]))
    for one, other in zip(*map(tensors, found), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for one, other in zip(*map(rows, found), strict=True):
        assert one.keys() == other.keys()
        assert (one["step"], one["lr"]) == (other["step"], other["lr"])
        for key in ("elbo", "objective", "reconstruction"):
            assert one[key] == pytest.approx(other[key], rel=1e-5)
    assert found[1].step == 5 * (2 if engine == "eager" else 9)
    if engine == "graph":
        assert found[1].steps.running.records > 0


def test_a_loader_has_its_batches_divided():
    def loader():
        return DataLoader(list(X), batch_size=11)

    whole, parts = (fit(trainer(), loader(), batch_size=None, accumulate=k) for k in (1, 3))
    for one, other in zip(tensors(parts), tensors(whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_an_interrupted_run_goes_on_with_its_parts(tmp_path):
    """To the last bit, random latents among what goes on."""
    options = {"checkpoint": tmp_path / "run", "every": 3, "keep": 9}
    plain = fit(trainer(guide=guides.BottomUp), accumulate=3, **options)
    latest = max((tmp_path / "run").glob("step-*.pt"))
    latest.unlink()
    again = Trainer.resume(tmp_path / "run").fit(X, progress=False)
    assert rows(again) == rows(plain)
    assert all(map(torch.equal, tensors(again), tensors(plain)))
    other = Trainer.resume(tmp_path / "run")
    with pytest.raises(ValueError, match="accumulate: expected 3, as in the run that goes on"):
        other.fit(X, accumulate=2, progress=False)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm": nn.BatchNorm1d}, r"accumulate: model\.\S+ and \d+ more take statistics"),
        (
            {"likelihood": likelihoods.Gaussian("optimal")},
            r"accumulate: model\.likelihood\.noise take statistics",
        ),
        ({}, None),
    ],
)
def test_what_takes_statistics_of_a_batch_is_told(options, name, capsys):
    t = trainer(**options)
    fit(t, batch_size=10, epochs=1, accumulate=2)
    told = capsys.readouterr()
    if name is None:
        assert told.out == told.err == ""
    else:
        assert re.search(name, told.out + told.err)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: codebooks.MovingAverage(4, 2), True),
        (lambda: codebooks.Gradient(4, 2), True),
        (lambda: codebooks.Gradient(4, 2, initializer=None), False),
        (lambda: codebooks.LookupFree(2), True),
        (lambda: codebooks.LookupFree(2, entropy=0.0), False),
    ],
)
def test_codebooks_that_look_at_a_batch_are_told_and_begin_with_the_first_one(make, told, capsys):
    torch.manual_seed(0)
    model = models.VQVAE((6,), codebook=make(), likelihood=likelihoods.Gaussian(1.0), hidden=(8,))
    t = Trainer(model, guides.NearestCode(model), seed=3, engine="eager")
    seen = []

    class Start(callbacks.Callback):
        def on_fit_begin(self, trainer, **kwargs):
            seen.append(getattr(model.codebook, "initialized", None))

    before = getattr(model.codebook, "initialized", None)
    fit(t, epochs=1, accumulate=2, callbacks=[Start()])
    printed = capsys.readouterr()
    assert ("model.codebook take statistics" in printed.out + printed.err) is told
    assert seen == [before]


def test_a_part_of_one_datum_cannot_be_normalised():
    with pytest.raises(ValueError, match=r"got a last batch of 6 of 50 data in 4: .*accumulate=3"):
        fit(trainer(norm=nn.BatchNorm1d), accumulate=4)
    fit(trainer(norm=nn.BatchNorm1d), epochs=1, accumulate=3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("free_bits", lambda guide: handlers.free_bits(guide, 0.5)),
        ("regularize", lambda g: handlers.regularize(g, regularizers.MMD(), site="z1")),
    ],
)
def test_what_looks_at_a_whole_batch_is_refused_before_the_first_step(name, change):
    t = trainer(guide=lambda model: change(guides.BottomUp(model)))
    with pytest.raises(ValueError, match=f"handlers.{name} looks at a batch as a whole"):
        fit(t, accumulate=2)
    assert t.step == 0
    fit(t, epochs=1)


def test_programs_that_run_on_no_fewer_data_are_refused():
    def model(x):
        with pyro.plate("data", 50):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([50, 6]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", 50):
            pyro.sample("z", dist.Normal(loc, 1.0))

    t = Trainer(model, guide, seed=0)
    with pytest.raises(ValueError, match="programs that run on a part of 50 data, got 2 parts"):
        fit(t, batch_size=None, accumulate=2)


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, "4"])
def test_parts_are_a_whole_number(accumulate):
    with pytest.raises((TypeError, ValueError), match="accumulate: expected"):
        fit(trainer(), accumulate=accumulate)


def test_enumerated_classes_add_up():
    """A sum over classes per datum is a sum over data."""
    y = torch.where(torch.arange(50) % 3 == 0, torch.arange(50) % 2, -1)
    found = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        likelihood, partial = likelihoods.Gaussian(1.0), {"condition": 2, "labels": "partial"}
        vae = models.VAE((6,), 2, likelihood=likelihood, hidden=(8,), **partial)
        guide = guides.Labelled(guides.Delta(vae))
        t = Trainer(vae, guide, seed=0, elbo="enumerate", engine="eager")
        found.append(fit(t, (X, y), epochs=1, accumulate=accumulate).history[-1]["objective"])
    assert math.isfinite(found[0]) and found[1] == pytest.approx(found[0], rel=1e-4)


def test_pyros_objectives_are_refused():
    t = trainer(guide=guides.BottomUp, elbo=pyro.infer.Trace_ELBO())
    with pytest.raises(TypeError, match="accumulate: expected an estimator of pyro_vae"):
        fit(t, accumulate=2)
    t.elbo = infer.TraceELBO()
    fit(t, epochs=1, accumulate=2)
