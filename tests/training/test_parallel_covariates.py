"""Two processes train a pair with covariates as one does."""

import covariate_cases
import parallel_cases
import pytest
import torch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="needs torch.distributed"
)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("covariates")
    parallel_cases.finished(covariate_cases.__file__, folder, cwd=folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", covariate_cases.CASES)
def test_two_processes_with_covariates_train_as_one(processes, case):
    alone = covariate_cases.run(case)
    for results in processes:
        found = results[case]
        assert all(
            torch.equal(v, processes[0][case]["state"][k]) for k, v in found["state"].items()
        )
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-6)
        for row, expected in zip(found["rows"], alone["rows"], strict=True):
            assert row["elbo"] == pytest.approx(expected["elbo"], rel=1e-4)
            before = expected["validation"]["elbo"]
            assert row["validation"]["elbo"] == pytest.approx(before, rel=1e-4)
