"""Streams over many files, by the code of the page about scale."""

import io
import itertools
import re
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from pyro_vae import Trainer, guides, likelihoods, models, ranks
from pyro_vae.training.feeds import Loaded

PAGE = Path(__file__).parents[2] / "notebooks" / "more" / "scale.md"
N = 48
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
Y = np.arange(N) % 3


@pytest.fixture(scope="module")
def page():
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Four archives of 12 samples."""
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for i in range(12 * shard, 12 * shard + 12):
                file = io.BytesIO()
                np.save(file, X[i])
                for end, held in (("npy", file.getvalue()), ("cls", str(Y[i]).encode())):
                    member = tarfile.TarInfo(f"{i:06d}.{end}")
                    member.size = len(held)
                    archive.addfile(member, io.BytesIO(held))
    return sorted(folder.glob("*.tar"))


def pair(**options):
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(1.0), hidden=(8,), **options)
    return vae, guides.BottomUp(vae)


def sorted_rows(batches):
    rows = torch.cat([x for x, *_ in batches])
    return rows[rows[:, 0].argsort()]


EXPECTED = torch.from_numpy(X[X[:, 0].argsort()])


@pytest.mark.parametrize("workers", [0, 2])
def test_archives_give_each_sample_once_in_another_order_each_epoch(page, tars, workers):
    shards = page["Shards"](tars, page["from_tar"], N)
    loader = DataLoader(shards, batch_size=6, num_workers=workers)
    feed = Loaded(loader, torch.device("cpu"), torch.float32)
    epochs = [[*feed] for _ in range(2)]
    for batches in epochs:
        assert [len(x) for x, _ in batches] == [6] * 8 and len(feed) == 8
        assert torch.equal(sorted_rows(batches), EXPECTED)
        for x, y in batches:
            numbers = [int((X == row.numpy()).all(1).argmax()) for row in x]
            assert y.tolist() == Y[numbers].tolist()
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_a_pair_is_trained_from_archives(page, tars):
    loader = DataLoader(page["Shards"](tars, page["from_tar"], N), batch_size=6)
    trainer = Trainer(*pair(condition=3), seed=0).fit(loader, epochs=2, progress=False)
    assert trainer.step == 16 and len(trainer.history) == 2


def test_groups_of_rows_of_parquet_are_shards(page, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pip install 'pyro_vae[tables]'")
    from pyarrow import parquet

    table = pyarrow.table({f"c{k}": X[:, k].astype(np.float64) for k in range(6)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=12)
    places = page["row_groups"](tmp_path / "x.parquet")
    assert len(places) == 4
    loader = DataLoader(page["Shards"](places, page["from_parquet"], N), batch_size=6)
    assert torch.equal(sorted_rows([(x,) for x in loader]), EXPECTED)
    assert Trainer(*pair(), seed=0).fit(loader, epochs=1, progress=False).step == 8


def test_processes_read_shards_of_their_own(page, tars):
    """Simulated: as many batches in each of four, and each datum once among them."""
    batches, drawn = [], page["Shards"](tars, page["from_tar"], N)
    for rank in range(4):
        world = ranks.World(rank, 4, torch.device("cpu"))
        with mock.patch.object(ranks, "_world", world):
            shards = page["Shards"](tars, page["from_tar"], N)
            loader = DataLoader(shards, batch_size=6)
            feed = Loaded(loader, torch.device("cpu"), torch.float32)
            assert feed.divided and len(feed) == 2
            batches.append([*feed])
            with pytest.raises(ValueError, match=rf"a Shards of rank {rank} of 4 was expected"):
                Loaded(DataLoader(drawn, batch_size=6), torch.device("cpu"), torch.float32)
    assert all(len(own) == 2 for own in batches)
    assert torch.equal(sorted_rows(itertools.chain(*batches)), EXPECTED)


def test_a_stream_without_a_length_is_refused_with_what_it_needs(page, tars):
    class Endless(IterableDataset):
        def __iter__(self):
            yield from page["from_tar"](tars[0])

    class Counted(Endless):
        def __len__(self):
            return 12

    options = {"epochs": 1, "progress": False}
    with pytest.raises(ValueError, match="an Endless without length: give this a __len__"):
        Trainer(*pair(condition=3)).fit(DataLoader(Endless(), batch_size=6), **options)
    fitted = Trainer(*pair(condition=3)).fit(DataLoader(Counted(), batch_size=6), **options)
    assert fitted.step == 2
