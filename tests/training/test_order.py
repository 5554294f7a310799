"""Orders that are computed: of data whose permutation no memory holds."""

import pytest
import torch

from pyro_vae import Trainer, data, guides, likelihoods, models
from pyro_vae.training import feeds
from pyro_vae.training.order import Order

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 1000, 65_537])
def test_each_row_comes_once(n):
    order = Order(n, CPU)
    rows = torch.cat([order[start : start + 7919] for start in range(0, n, 7919)])
    assert torch.equal(rows.sort().values, torch.arange(n))


def test_orders_are_random_and_belong_to_a_seed():
    def drawn(seed):
        torch.manual_seed(seed)
        return Order(100_000, CPU)[0:100_000]

    first, second = drawn(0), drawn(1)
    assert torch.equal(first, drawn(0))
    # As many rows stay in place as a random permutation leaves, Poisson(1)
    assert (first == torch.arange(100_000)).sum() < 10 and (first == second).sum() < 10
    steps = torch.stack([first[:-1], first[1:]]).double()
    assert abs(torch.corrcoef(steps)[0, 1]) < 0.015  # 5 standard errors
    # Batches are spread over the rows: the mean of 128 is uniform's
    means = first[:99_968].double().view(-1, 128).mean(1) / 1e5
    assert means.std() == pytest.approx((1 / 12 / 128) ** 0.5, rel=0.15)


def test_a_batch_of_a_billion_rows_takes_no_more_memory():
    order = Order(10**9, CPU)
    rows = order[10**9 - 100 : 10**9 + 28]
    assert len(rows) == 100 and rows.max() < 10**9 and len(rows.unique()) == 100


def test_what_is_computed_ahead_is_what_is_asked_for():
    """In any slices, forwards and back."""
    torch.manual_seed(0)
    order, n = Order(100_000, CPU), 100_000
    whole = order[0:n]
    slices = [(5, 9), (16_300, 16_500), (99_990, 100_064), (0, 128), (16_384, 40_000), (7, 8)]
    for start, stop in slices:
        assert torch.equal(order[start:stop], whole[start:stop])


def test_a_run_goes_on_in_a_computed_order(monkeypatch, tmp_path):
    """In the middle of an epoch, to the last bit; each datum once per epoch."""
    monkeypatch.setattr(feeds, "_MOST_HELD", 10)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    feed = feeds.Resident(data.Dataset(x), 11)
    torch.manual_seed(0)
    first, second = ([*map(len, (b for b, _ in feed))] for _ in range(2))
    assert first == second == [11, 11, 11, 11, 6]
    seen = torch.cat([b for b, _ in feed])
    assert torch.equal(seen.sort(0).values, x.sort(0).values) and not torch.equal(seen, x)

    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(1.0), hidden=(8,))
    trainer = Trainer(vae, guides.BottomUp(vae), seed=0, engine="eager")
    options = {"checkpoint": tmp_path, "every": 3, "keep": 9}
    trainer.fit(x, epochs=2, batch_size=11, progress=False, **options)
    max(tmp_path.glob("step-*.pt")).unlink()
    again = Trainer.resume(tmp_path).fit(x, progress=False)
    for one, other in zip(trainer.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_smaller_data_keep_the_order_of_their_seed():
    """That of torch.randperm, as it always was."""
    x = torch.arange(50.0)[:, None]
    torch.manual_seed(0)
    found = torch.cat([b for b, _ in feeds.Resident(data.Dataset(x), 11)])
    torch.manual_seed(0)
    assert torch.equal(found, x[torch.randperm(50)])
