"""Minibatches from a DataLoader: the same training, checked first, and without a trace."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
)

from pyro_vae import Trainer, diagnostics, guides, infer, likelihoods, ranks
from pyro_vae.data import Dataset, DataSplits, load
from pyro_vae.models import VAE
from pyro_vae.training.feeds import Loaded, Resident, check_source

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 3


def pair(guide=guides.BottomUp, likelihood=likelihoods.Gaussian, **options):
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihood(), hidden=(8,), **options)
    return vae, guide(vae)


def loader(*tensors, **options):
    options = {"batch_size": 16, "shuffle": True, **options}
    data = TensorDataset(*tensors or (X,))
    return DataLoader(data, generator=torch.Generator().manual_seed(5), **options)


def fitted(programs, data, *, epochs=3, validation=None, **options):
    trainer = Trainer(*programs, seed=0, lr=1e-2, **options)
    return trainer.fit(data, epochs=epochs, validation=validation, progress=False)


def rows(trainer):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


def parameters(trainer):
    return [p for module in trainer.modules() for p in module.parameters()]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_that_of_a_loop_over_the_same_loader(workers):
    trainer = fitted(pair(), loader(num_workers=workers), engine="eager")
    programs, batches = pair(), loader()
    optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=True)  # noqa: E731
    svi = infer.SVI(*programs, optimizer, infer.TraceELBO("mean"))
    torch.manual_seed(0)
    objectives = []
    for _ in range(3):
        losses = [(len(x), float(svi.step(x))) for (x,) in batches]
        objectives.append(-sum(n * loss for n, loss in losses) / len(X))
    for one, other in zip(parameters(trainer), svi.parameters(), strict=True):
        assert torch.equal(one, other)
    assert trainer.history.column("objective") == pytest.approx(objectives, rel=1e-6)
    assert trainer.step == 9


@pytest.mark.parametrize(("options", "steps", "n"), [({}, 6, 40), ({"drop_last": True}, 5, 35)])
def test_the_history_is_per_datum_in_batches_of_any_size(options, steps, n):
    vae, guide = pair(guides.Delta)
    trainer = Trainer(vae, guide, beta=0.0, lr=1e-12, seed=0)
    trainer.fit(loader(batch_size=7, shuffle=False, **options), epochs=1, progress=False)
    with torch.no_grad():
        exact = vae.likelihood(vae.decoder(guide.encode(X).mean["z1"])).log_prob(X).sum(-1)
    assert trainer.step == steps
    expected = pytest.approx(float(exact[:n].mean()), rel=1e-5)
    assert trainer.history[0]["reconstruction"] == expected
    assert trainer.history[0]["objective"] == expected


def test_the_trainers_seed_orders_a_loader_without_generator():
    def run(seed):
        torch.manual_seed(seed)
        return rows(fitted(pair(), DataLoader(TensorDataset(X), batch_size=16, shuffle=True)))

    assert run(1) == run(2)


def test_a_second_fit_goes_on():
    batches = loader(shuffle=False)
    trainer = fitted(pair(), batches, epochs=1)
    again = fitted(pair(), loader(shuffle=False), epochs=2)
    trainer.fit(batches, epochs=1, progress=False)
    assert rows(trainer) == rows(again)


def test_labels_and_datasets_of_this_library():
    vae, guide = pair(condition=3)
    dataset = DataLoader(Dataset(X, Y), batch_size=16, generator=torch.Generator())
    trainer = fitted((vae, guide), dataset)
    other = fitted(pair(condition=3), loader(X, Y, shuffle=False))
    assert rows(trainer) == rows(other)


def test_8_bit_pixels_are_divided_on_the_way():
    pixels = torch.randint(256, (40, 6), dtype=torch.uint8)
    likelihood = likelihoods.ContinuousBernoulli
    found = fitted(pair(likelihood=likelihood), loader(pixels, shuffle=False))
    expected = fitted(pair(likelihood=likelihood), loader(Dataset(pixels).x, shuffle=False))
    assert rows(found) == rows(expected)
    x, y = next(iter(Loaded(loader(pixels), torch.device("cpu"), torch.float64)))
    assert x.dtype == torch.float64 and y is None


def test_validation_by_a_loader_is_the_bound_of_its_data_and_disturbs_nothing():
    plain = fitted(pair(guides.Delta), X)
    found = fitted(pair(guides.Delta), X, validation=loader(X[:25], batch_size=10))
    expected = fitted(pair(guides.Delta), X, validation=X[:25])
    for one, other in zip(parameters(found), parameters(plain), strict=True):
        assert torch.equal(one, other)
    for row, exact in zip(rows(found), rows(expected), strict=True):
        assert row["validation"]["elbo_se"] == pytest.approx(exact["validation"]["elbo_se"])
        assert row["validation"]["objective"] == pytest.approx(exact["validation"]["objective"])


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_validation_changes_neither_buffers_nor_random_numbers(engine):
    grey = Dataset(X.sigmoid(), binarize="dynamic")

    def run(validation):
        programs = pair(likelihood=likelihoods.Bernoulli, norm=nn.BatchNorm1d)
        return fitted(programs, grey, validation=validation, engine=engine, epochs=5)

    plain, validated = run(None), run(loader((X > 0).float()))
    for one, other in zip(plain.modules(), validated.modules(), strict=True):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
        assert one.training and other.training


def test_a_sampler_is_told_the_epoch_of_the_trainer_before_each_pass():
    class Told(DistributedSampler):
        def set_epoch(self, epoch):
            told.append(epoch)
            super().set_epoch(epoch)

    def run(data):
        trainer = fitted(pair(), data, epochs=2)
        return trainer.fit(data, epochs=1, progress=False)

    told = []
    found = run(DataLoader(X, sampler=Told(X, 1, 0, seed=4), batch_size=16))
    assert told == [0, 1, 2]
    # DistributedSampler documents its order: that of a generator of seed + epoch
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(4 + i)) for i in told]
    epochs = iter([row for order in orders for row in order.split(16)])

    class Orders:
        def __len__(self):
            return 3

        def __iter__(self):
            return itertools.islice(epochs, 3)

    expected = run(DataLoader(X, batch_sampler=Orders()))
    for one, other in zip(parameters(found), parameters(expected), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("distributed", [True, False])
def test_the_first_batch_to_look_at_is_that_of_all_processes(distributed, monkeypatch):
    """As process 0 of two, whose other part of a batch is taken to be 100 more."""
    monkeypatch.setattr(ranks, "size", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    monkeypatch.setattr(ranks, "agreed", lambda value: value)
    monkeypatch.setattr(ranks, "part", lambda rows: rows[: len(rows) // 2])
    monkeypatch.setattr(ranks, "gathered", lambda x: torch.cat([x, x + 100]))
    sampler = DistributedSampler(X, 2, 0, shuffle=False) if distributed else None
    feed = Loaded(DataLoader(X, 8, sampler=sampler), torch.device("cpu"), torch.float32)
    # Every other datum, or the first half of the first eight
    own = X[:16:2] if distributed else X[:4]
    assert torch.equal(feed.data.x, torch.cat([own, own + 100]))
    assert feed.divided and torch.equal(next(iter(feed))[0], own)


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class _Counted(_Stream):
    def __len__(self):
        return len(X)


def test_a_stream_that_tells_its_length_is_enough():
    stream = DataLoader(_Counted(), batch_size=16, generator=torch.Generator())
    trainer = fitted(pair(), stream)
    assert rows(trainer) == rows(fitted(pair(), loader(shuffle=False)))


def batches_of(make):
    return DataLoader(list(X), batch_size=8, collate_fn=lambda items: make(torch.stack(items)))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (batches_of(lambda x: {"image": x, "label": x}), TypeError, "dict of 'image', 'label'"),
        (batches_of(lambda x: (x, x, x)), TypeError, "got tuple of Tensor, Tensor, Tensor"),
        (batches_of(lambda x: (x, "a")), TypeError, "got tuple of Tensor, str"),
        (batches_of(lambda x: x.numpy()), TypeError, "got ndarray"),
        (batches_of(lambda x: x[:, :5]), ValueError, "site 'x': expected shape (n, 6)"),
        (batches_of(lambda x: x / 0), ValueError, "expected finite values"),
        (batches_of(lambda x: (x, x)), ValueError, "y: expected shape (8,)"),
        (DataLoader(_Stream(), batch_size=8), ValueError, "_Stream without length"),
        (loader(batch_size=64, drop_last=True), ValueError, "at least one batch"),
        (DataLoader(list(X), batch_size=None), ValueError, "expected shape (n, *event)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["data", "validation"])
def test_a_bad_loader_is_an_error_before_the_first_step(data, error, message, name):
    trainer = Trainer(*pair(), seed=0)
    state = torch.get_rng_state()
    with pytest.raises(error, match=f"{name}: .*" + re.escape(message)):
        trainer.fit(**{"data": X, name: data}, epochs=1, progress=False)
    assert trainer.step == 0 and torch.equal(torch.get_rng_state(), state)


def spoilt(value, row=35):
    x = X.clone()
    x[row, 3] = value
    return x


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_later_batch_that_is_not_finite_is_to_blame(engine):
    trainer = Trainer(*pair(), seed=0, engine=engine)
    message = r"batch 5 of the DataLoader: x: expected finite values, got 1 NaN .*: remove or fill"
    with pytest.raises(ValueError, match=message):
        batches = loader(spoilt(math.nan), batch_size=8, shuffle=False)
        trainer.fit(batches, epochs=1, progress=False)
    assert trainer.step == 4 and all(p.isfinite().all() for p in parameters(trainer))


def test_a_later_batch_outside_of_the_support_is_found():
    programs = pair(likelihood=likelihoods.Bernoulli)
    x = (X > 0).float()
    x[35, 3] = 0.5
    with pytest.raises(ValueError, match="batch 3 of the DataLoader: x: Bernoulli expects only 0"):
        fitted(programs, loader(x, shuffle=False))
    with pytest.raises(ValueError, match=r"batch 3 of the DataLoader: y: .* labels from 0 to 2"):
        labels = torch.where(torch.arange(40) == 35, 3, Y)
        fitted(pair(condition=3), loader(X, labels, shuffle=False))
    with pytest.raises(ValueError, match="validation: batch 3 of the DataLoader: x: Bernoulli"):
        fitted(programs, (X > 0).float(), validation=loader(x, shuffle=False))


class Spoiling(torch.utils.data.Dataset):
    """A reader that fails to fill a value after the first epoch."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 40

    def __getitem__(self, i):
        self.read += 1
        return spoilt(math.nan)[i] if self.read > 40 else X[i]


@pytest.mark.parametrize("skip", [False, True])
def test_data_of_a_later_epoch_that_are_not_finite_are_to_blame(skip):
    trainer = Trainer(*pair(), seed=0)
    batches = DataLoader(Spoiling(), batch_size=8)
    message = r"data of step 10 have 1 NaN .* the first at x\[3, 3\] of the batch: remove or fill"
    if skip:
        trainer.fit(batches, epochs=2, progress=False, on_nonfinite="skip")
        assert trainer.history[1]["skipped"] == 1
    else:
        with pytest.raises(FloatingPointError, match=message) as error:
            trainer.fit(batches, epochs=2, progress=False)
        assert "lower lr" not in str(error.value) and trainer.step == 9


DIGITS = load("digits", binarize=None)


@pytest.mark.parametrize(
    "given",
    [
        DIGITS,
        DIGITS.train.x.numpy(),
        DIGITS.train.x.tolist(),
        list(DIGITS.train.x),
        TensorDataset(DIGITS.train.x, DIGITS.train.y),
        (DIGITS.train.x.numpy(), DIGITS.train.y.numpy()),
        {"x": DIGITS.train.x.numpy(), "y": DIGITS.train.y},
        Subset(TensorDataset(DIGITS.train.x, DIGITS.train.y), range(len(DIGITS.train))),
    ],
    ids=lambda given: type(given).__name__,
)
def test_training_and_evaluation_take_what_is_unambiguous(given):
    def run(data, held_out):
        torch.manual_seed(0)
        vae = VAE((1, 8, 8), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
        trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
        return trainer.fit(data, epochs=1, validation=held_out, progress=False)

    found, expected = run(given, DIGITS), run(DIGITS.train, DIGITS.test)
    assert rows(found) == rows(expected)
    held_out = DIGITS.train if isinstance(given, DataSplits) else given
    torch.manual_seed(1)
    one = diagnostics.evaluate(found.model, found.guide, held_out, importance_samples=0)
    torch.manual_seed(1)
    other = diagnostics.evaluate(found.model, found.guide, DIGITS.train, importance_samples=0)
    assert torch.equal(one.terms.elbo, other.terms.elbo)


def test_validation_data_of_splits_come_before_test_data():
    splits = DataSplits("d", Dataset(X), Dataset(X[:8]), Dataset(X[8:24]))
    found = fitted(pair(), splits, validation=splits)
    assert rows(found) == rows(fitted(pair(), X, validation=X[8:24]))
    with pytest.raises(TypeError, match=r"got DataSplits 'd' .* pass its .train or its .test"):
        diagnostics.evaluate(found.model, found.guide, splits)


@pytest.mark.parametrize(("n", "steps"), [(40, 5), (41, 6), (7, 1)])
def test_a_resident_epoch_is_each_datum_once_in_as_many_batches_as_its_length(n, steps):
    feed = Resident(Dataset(torch.arange(float(n))[:, None]), 8)
    batches = [x for x, _ in feed]
    assert len(feed) == len(batches) == steps
    assert sorted(torch.cat(batches).flatten().tolist()) == list(range(n))


@pytest.mark.parametrize("row", [0, 9_999, 10_000, 20_001])
def test_every_row_of_large_data_is_checked(row):
    vae, _ = pair(likelihood=likelihoods.Bernoulli)
    x = torch.zeros(20_002, 6)
    check_source(Dataset(x), "data", vae)
    x[row, 3] = 0.5
    with pytest.raises(ValueError, match=r"data: .*expects only 0 and 1"):
        check_source(Dataset(x), "data", vae)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("pinned", [True, False])
def test_batches_arrive_on_the_gpu_in_order_and_whole(pinned):
    x = torch.as_tensor(np.arange(3_000_000, dtype=np.float32).reshape(300, -1))
    feed = Loaded(
        loader(x, torch.arange(300), shuffle=False, batch_size=7, pin_memory=pinned),
        torch.device("cuda"),
        torch.float32,
    )
    assert len(feed.data) == 7
    for _ in range(2):
        found = [(part.clone(), y) for part, y in feed]
        assert torch.equal(torch.cat([part for part, _ in found]).cpu(), x)
        assert torch.equal(torch.cat([y for _, y in found]).cpu(), torch.arange(300))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_gpu():
    class Watch:
        """From the second step of an epoch on, since reading its totals waits, once."""

        def on_step_end(self, trainer, **kwargs):
            torch.cuda.set_sync_debug_mode("default" if trainer.step % 5 == 0 else "error")

    pixels = torch.randint(256, (40, 6), dtype=torch.uint8)
    vae, guide = pair(likelihood=likelihoods.Bernoulli)
    trainer = Trainer(vae, guide, device="cuda", clip_norm=1.0, engine="eager", seed=0)
    data = Dataset(pixels, binarize="dynamic")
    try:
        trainer.fit(data, epochs=3, batch_size=8, callbacks=[Watch()], progress=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.step == 15
