import gc
import tracemalloc
from pathlib import Path

import pyro
import pytest
import torch

from pyro_vae import Trainer, guides, likelihoods
from pyro_vae.models import VAE

X = torch.randn(800, 6, generator=torch.Generator().manual_seed(1))
ROW = 4000  # bytes of a row of the history, the one thing that is to grow
SLACK = 30e6


def trainer(engine="eager", latents=(3, 2), hidden=(8,)):
    torch.manual_seed(0)
    vae = VAE((6,), latents, likelihood=likelihoods.Gaussian("optimal"), hidden=hidden)
    return Trainer(vae, guides.BottomUp(vae), seed=0, engine=engine)


def fit(t, epochs, x=X[:64], **options):
    return t.fit(x, batch_size=8, epochs=epochs, progress=False, **options)


def resident():
    """Bytes of this process that lie in memory."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def in_use():
    """Bytes of Python's objects, tensors alive, and entries of Pyro's store."""
    gc.collect()
    tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    return tracemalloc.get_traced_memory()[0], tensors, len(pyro.get_param_store())


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def check_flat(run, rows):
    before, held = in_use(), resident()
    run()
    after = in_use()
    assert after[1:] == before[1:]
    assert after[0] - before[0] < 100_000 + ROW * rows
    assert resident() - held < SLACK + ROW * rows


def check_steps(t, before, epochs, **options):
    for _ in range(2):
        fit(t, before, **options)
    check_flat(lambda: fit(t, epochs, **options), epochs)


def swap(t, i):
    made = (
        lambda: guides.BottomUp(t.model, hidden=(8 + i % 3,)),
        lambda: guides.Ladder(t.model),
        lambda: guides.Delta(t.model),
    )
    fit(t.swap_guide(made[i % 3]()), 2)


def check_swaps(swaps):
    t = trainer()
    for i in range(6):
        swap(t, i)
    check_flat(lambda: [swap(t, i) for i in range(swaps)], 2 * swaps)


def test_memory_stays_flat_over_steps(traced, tmp_path):
    check_steps(trainer(), 20, 60, checkpoint=tmp_path, every=100)


def test_memory_stays_flat_over_swaps(traced):
    check_swaps(9)


def test_memory_stays_flat_over_recordings(traced):
    t = trainer("graph")
    for _ in range(2):
        fit(t, 20)
    check_flat(lambda: fit(t, 20), 20)


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_steps(traced, tmp_path):
    tiny = trainer(latents=1, hidden=())
    check_steps(tiny, 2, 100, x=X, checkpoint=tmp_path, every=100)
    assert tiny.step == 10_400


@pytest.mark.slow
def test_memory_stays_flat_over_fifty_one_swaps(traced):
    check_swaps(51)
