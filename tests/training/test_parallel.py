"""Two processes train what one process trains with the whole batch."""

import json
import math

import covariate_cases
import parallel_all
import parallel_cases
import parallel_methods
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)

from pyro_vae import Trainer, infer, ranks
from pyro_vae.cli import main
from pyro_vae.data import Arguments
from pyro_vae.training import feeds

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="needs torch.distributed"
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    _, told = parallel_cases.finished(parallel_all.__file__, folder, cwd=folder)
    assert "Warning" not in told
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", [*parallel_cases.CASES, *parallel_cases.LOADERS])
def test_two_processes_train_as_one_with_the_whole_batch(processes, case):
    """50 data in odd batches, so that the parts are unequal; the last batch is short."""
    loaders = parallel_cases.LOADERS.get(case, ())
    make = parallel_cases.CASES["mean" if loaders else case]
    alone = parallel_cases.run(make, 3, *loaders)
    found = processes[0][case]
    for name, tensor in alone["state"].items():
        torch.testing.assert_close(found["state"][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    for one, other in zip(found["rows"], alone["rows"], strict=True):
        assert one.keys() == other.keys()
        for key in ("elbo", "objective", "reconstruction"):
            assert one[key] == pytest.approx(other[key], rel=1e-5)
            assert one["validation"][key] == pytest.approx(other["validation"][key], rel=1e-5)
        deviation = pytest.approx(other["validation"]["elbo_se"], rel=1e-4)
        assert one["validation"]["elbo_se"] == deviation
        assert one.get("active_units") == other.get("active_units")
        assert one.get("skipped") == other.get("skipped") == (1 if case == "skipped" else None)
    changed = make()[0][0].state_dict()
    assert any(not torch.equal(alone["state"][f"0.{k}"], v) for k, v in changed.items())


CASES = [*parallel_cases.CASES, *parallel_cases.LOADERS, *parallel_cases.RANDOM]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_draws_other_numbers_in_each_process(processes, workers):
    first, second = (results["numbers"][workers // 2] for results in processes)
    assert len(first) == len(second) == 8
    assert len(torch.cat([first, second]).unique()) == 2 * first.numel()


@pytest.mark.parametrize("case", CASES)
def test_processes_agree_to_the_last_bit_and_draw_numbers_of_their_own(processes, case):
    first, second = (results[case] for results in processes)
    assert first["rows"] == second["rows"]
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
    assert first["drawn"] != second["drawn"]


def test_a_method_may_leave_parts_of_its_module_unused(processes):
    alone = parallel_methods.run()
    for results in processes:
        for name, tensor in alone.items():
            found = results["methods"][name]
            torch.testing.assert_close(found, tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", covariate_cases.CASES)
def test_two_processes_with_covariates_train_as_one(processes, case):
    alone = covariate_cases.run(case)
    for results in processes:
        found = results["covariates"][case]
        first = processes[0]["covariates"][case]["state"]
        assert all(torch.equal(v, first[k]) for k, v in found["state"].items())
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-6)
        for row, expected in zip(found["rows"], alone["rows"], strict=True):
            assert row["elbo"] == pytest.approx(expected["elbo"], rel=1e-4)
            before = expected["validation"]["elbo"]
            assert row["validation"]["elbo"] == pytest.approx(before, rel=1e-4)


def test_the_noise_of_the_parts_is_that_of_one_batch(processes):
    """The mean of 40 epochs, and their spread, which equal noise in both would make larger."""
    rows = processes[0]["noise"]["rows"]
    found = torch.tensor([row["elbo"] for row in rows], dtype=torch.float64)
    torch.manual_seed(0)
    programs, _ = parallel_cases.RANDOM["noise"]()
    x = parallel_cases.X
    draws = torch.stack([_bound(programs, x, seed) for seed in range(400)])
    error = math.hypot(found.std() / math.sqrt(len(found)), draws.std() / math.sqrt(len(draws)))
    assert abs(found.mean() - draws.mean()) < 4 * error
    # The ratio of the variances has a standard error of sqrt(2 / 39) = 0.23; 2 for equal noise
    assert abs(found.var() / draws.var() - 1) < 3 * math.sqrt(2 / 39)


def _bound(programs, x, seed):
    torch.manual_seed(seed)
    return infer.elbo_terms(*programs, x).elbo.mean().double()


def test_dead_codes_are_revived_alike(processes):
    state = processes[0]["revival"]["state"]
    name = next(k for k in state if k.endswith("codebook.weight"))
    # Put on encoder outputs, all of which differ
    assert len(state[name].unique(dim=0)) == 16


def test_torchrun_writes_one_run_equal_to_that_of_one_process(tmp_path, capsys):
    options = ["train", "--epochs", "2", "--hidden", "8", "--latents", "2", "--guide", "delta"]
    options += ["--likelihood", "gaussian", "--beta", "0", "--importance-samples", "0"]
    command = ["-m", "pyro_vae", *options, "--checkpoint", "9", "--out", "two"]
    out, err = parallel_cases.finished(*command, cwd=tmp_path)
    assert out.count("wrote") == 1 and err.count("epoch 2") == 1
    assert main([*options, "--quiet", "--out", str(tmp_path / "one")]) == 0
    files = {"model.pt", "history.json", "run.json", "report.html"}
    assert {p.name for p in (tmp_path / "two").iterdir()} == files | {"checkpoints"}
    # 12 steps in an epoch
    names = [p.name for p in (tmp_path / "two" / "checkpoints").glob("step-*")]
    assert sorted(names) == [f"step-{step:09}.pt" for step in (9, 18, 24)]
    assert main(["train", "--resume", str(tmp_path / "two"), "--quiet"]) == 2
    assert "processes: expected 2, as in the run that goes on" in capsys.readouterr().err
    two, one = (json.loads((tmp_path / n / "history.json").read_text()) for n in ("two", "one"))
    for row, expected in zip(two, one, strict=True):
        assert row["step"] == expected["step"]
        assert row["objective"] == pytest.approx(expected["objective"], rel=1e-4)
        bound = expected["validation"]["objective"]
        assert row["validation"]["objective"] == pytest.approx(bound, rel=1e-4)


class Stream(IterableDataset):
    def __len__(self):
        return 50

    def __iter__(self):
        return iter(parallel_cases.X)


@pytest.fixture
def three(monkeypatch):
    """As if this were the last of three processes, which it never talks to."""
    monkeypatch.setattr(ranks, "_world", ranks.World(2, 3, torch.device("cpu")))


def test_parts_of_a_batch(three):
    assert ranks.part(torch.arange(8)).tolist() == [6, 7]
    ranks.check_batches(50, 13)
    for n, batch_size in ((50, 7), (50, 2), (2, 10)):
        with pytest.raises(ValueError, match="batch_size: expected a datum of every batch for 3"):
            ranks.check_batches(n, batch_size)


def test_what_cannot_be_shared_is_an_error(three):
    torch.manual_seed(0)
    programs, _ = parallel_cases.CASES["mean"]()
    trainer = Trainer(*programs)
    for name, loader, got in (
        ("data", DataLoader(Stream(), batch_size=5), "one of a stream, Stream"),
        ("validation", DataLoader(Stream(), batch_size=5), "one of a stream, Stream"),
        ("data", DataLoader(list(parallel_cases.X), batch_size=None), "one of batch_size=None"),
    ):
        with pytest.raises(TypeError, match=f"{name}: .* indices was expected.* got {got}: give"):
            trainer.fit(**{"data": parallel_cases.X, name: loader}, epochs=1, progress=False)
    x, sampler = parallel_cases.X, DistributedSampler(parallel_cases.X, 3, rank=0)
    for loader in (
        DataLoader(x, sampler=sampler, batch_size=5),
        DataLoader(x, batch_sampler=BatchSampler(sampler, 5, drop_last=False)),
    ):
        with pytest.raises(ValueError, match="Sampler of rank 2 of 3 was expected, got rank 0"):
            trainer.fit(loader, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"batch_size: .* got 1 in the last batch of 50 data"):
        trainer.fit(parallel_cases.X, epochs=1, batch_size=7, progress=False)
    assert trainer.step == 0
    function = Trainer(lambda x, **k: programs[0](x, **k), programs[1])
    with pytest.raises(TypeError, match="expects modules, got the plain function"):
        function.fit(parallel_cases.X, epochs=1, progress=False)


def test_parts_and_turns_of_batches_of_indices(three):
    batches = [["a", "b", "c", "d"], (1, 2, 3), range(8), torch.arange(5)]
    *lists, last = feeds.parts(batches)
    assert lists == [["d"], (3,), range(6, 8)] and last.tolist() == [4]
    assert feeds.turns(batches) == [range(8)] and feeds.turns([[1]]) == []
    with pytest.raises(ValueError, match="every batch for 3 processes, got a batch of 2: choose"):
        feeds.parts([[1, 2, 3], [4, 5]])


def test_the_first_batch_of_columns_is_the_same_in_all_processes(three, monkeypatch):
    monkeypatch.setattr(ranks, "gathered", lambda rows: torch.cat([rows - 1, rows, rows + 1]))
    x = torch.arange(12.0)
    loader = DataLoader(
        TensorDataset(x, x), batch_size=2, sampler=DistributedSampler(x, 3, rank=2, shuffle=False)
    )
    own = lambda batch: Arguments(batch, {"width": torch.ones(2)}, (0, 1))  # noqa: E731
    loaded = feeds.Loaded(loader, torch.device("cpu"), torch.float32, own=own)
    assert loaded.data[1].tolist() == [1, 4, 2, 5, 3, 6]
    assert len(loaded.data) == 6 and loaded.data["width"].tolist() == [1, 1]
    # What this process trains on is its own part
    assert [batch[0].tolist() for batch, _ in loaded] == [[2, 5], [8, 11]]


def test_what_differs_between_processes_is_an_error_in_all(processes):
    for results in processes:
        for message, found in zip(parallel_cases.WRONG, results["complaints"], strict=True):
            assert found.startswith("after 0 steps: " + message)


def test_a_process_alone_gets_back_what_it_gave():
    x = torch.randn(5, 3)
    for function in (ranks.total, ranks.same, ranks.gathered, ranks.part, ranks.agreed):
        assert function(x) is x
    assert ranks.each(x)[0] is x and ranks.most([3, -4]) == [3, -4]
    with pytest.raises(ZeroDivisionError):
        ranks.by_first(lambda: 1 / 0)
    assert ranks.mean(x) == x.mean() and ranks.count(x) == 5
    assert (ranks.rank(), ranks.size()) == (0, 1)
