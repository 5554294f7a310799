"""Mutation testing of the numerical core: which faults, put in on purpose, do the tests find?

    pip install -e '.[dev,mutation]'
    python tests/mutation.py --mutants 200 --seed 0

draws places in the code of the core, changes one operator, number, condition, keyword, decorator,
loop or ``except`` at each of them (by cosmic-ray's operators, in a copy of the checkout), and runs
the tests that belong to the file until the first that fails, in a fork, one mutant after the
other: some ten seconds each. It prints what became of each mutant and the share that was killed.
A mutant that survives is a test to write, or changes nothing that a test could hold: then it is
listed in ``equivalent_mutants.txt`` with the reason, and does not count. Names of mutants, as
printed, in place of ``--mutants`` run these again.

    >>> [test for file in core() for test in its_tests(file) if not (ROOT / test).exists()]
    []
    >>> [file for file in TESTS if not (ROOT / "pyro_vae" / file).exists()]
    []
    >>> [row for row in rows() if row[1] not in lines_of(row[0])]
    []
"""

import argparse
import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
_PASSED, _LIMIT = 0, 30.0

_SITES = ["programs/test_reading.py", "infer/test_against_stock.py"]
_STOCK = [*_SITES, "programs/test_stock_pyro.py", "test_linear_gaussian.py"]
_ELBO = ["infer/objectives/test_elbo.py", "infer/objectives/test_analytic.py", *_STOCK]
_SIGMA = ["likelihoods/test_sigma.py", "likelihoods/test_sigma_training.py"]
_TABLES = [f"likelihoods/test_{name}.py" for name in ("counts", "heavy", "mixed")]
_SVI = ["infer/engine/test_svi.py", "infer/engine/test_trainable.py"]
_TRAINER = ["training/test_trainer.py", "training/test_objective.py", "training/test_swaps.py"]
_VQ = [
    f"{name}.py"
    for name in ("guides/test_nearest_code", "models/test_vqvae", "models/test_vqvae_levels")
]
_TERMS = ["infer/test_terms.py", "training/test_feeds.py", "test_extremes.py"]
_WEIGHTED = "infer/objectives/test_importance_weighted.py"
# File or folder of pyro_vae -> its tests, in the order in which they run
TESTS = {
    "codebooks": ["test_codebooks.py", "codebooks", *_VQ],
    "conditionals": ["conditionals", "test_contract.py"],
    "diagnostics/baselines.py": ["diagnostics/test_baselines.py"],
    "diagnostics/calibration.py": ["diagnostics/test_calibration.py"],
    "diagnostics/codebook_use.py": ["diagnostics/test_codebook_use.py"],
    "diagnostics/collapse.py": ["diagnostics/test_collapse.py"],
    "diagnostics/continuity.py": ["diagnostics/test_continuity.py"],
    "diagnostics/disentanglement.py": ["diagnostics/test_disentanglement.py"],
    "diagnostics/evaluation.py": ["diagnostics/test_evaluation.py"],
    "diagnostics/features.py": ["diagnostics/test_features.py", "diagnostics/test_frechet.py"],
    "diagnostics/frechet.py": ["diagnostics/test_frechet.py"],
    "diagnostics/layers.py": ["diagnostics/test_layers.py"],
    "diagnostics/outliers.py": ["diagnostics/test_outliers.py"],
    "diagnostics/rarity.py": ["diagnostics/test_rarity.py"],
    "diagnostics/two_samples.py": ["diagnostics/test_rarity.py"],
    "distributions": [
        "test_distributions.py",
        "likelihoods/test_likelihoods.py",
        *_TABLES,
        "test_extremes.py",
        "guides/test_nearest_code.py",
    ],
    "ground/tables.py": [
        "ground/test_tables.py",
        "infer/test_comparison.py",
        "diagnostics/test_evaluation.py",
        "diagnostics/test_layers.py",
        "diagnostics/test_collapse.py",
    ],
    "handlers": ["handlers", "infer/objectives/test_free_bits.py", "test_regularizers.py"],
    "infer/aggregate.py": ["diagnostics/test_collapse.py", "priors/test_mixtures.py"],
    "infer/batchnorm.py": ["infer/test_batchnorm.py"],
    "infer/comparison.py": ["infer/test_comparison.py"],
    "infer/engine/captured.py": ["infer/engine/test_captured.py"],
    "infer/engine/compiled.py": ["infer/engine/test_compiled.py"],
    "infer/engine/optimizers.py": ["infer/engine/test_optimizers.py", *_SVI, *_TRAINER],
    "infer/engine/stepping.py": [
        "infer/engine/test_stepping.py",
        "infer/engine/test_optimizers.py",
    ],
    "infer/engine/svi.py": [
        *_SVI,
        "programs/test_broadcasting.py",
        "infer/engine/test_stepping.py",
        "programs/test_stock_pyro.py",
    ],
    "infer/engine/trainable.py": [*_SVI, *_TRAINER],
    "infer/engine": ["infer/engine/test_graph.py", "infer/engine"],
    "infer/densities.py": ["infer/test_importance.py", "infer/test_discrete_latents.py"],
    "infer/discrete.py": ["infer/test_discrete_latents.py"],
    "infer/budget.py": ["infer/test_budget.py"],
    "infer/importance.py": [
        "infer/test_importance.py",
        "infer/test_pareto.py",
        "infer/test_budget.py",
        "diagnostics/test_evaluation.py",
    ],
    "infer/latent.py": ["infer/test_latent.py"],
    "infer/objectives/enumerated.py": ["infer/objectives/test_enumerated.py"],
    "infer/objectives/elbo.py": [*_ELBO, "handlers/test_wrapping.py", "infer/test_terms.py"],
    "infer/objectives/free_bits.py": ["infer/objectives/test_free_bits.py"],
    "infer/objectives/importance_weighted.py": [_WEIGHTED, *_STOCK],
    "infer/objectives/pathwise.py": ["infer/objectives/test_pathwise.py"],
    "infer/objectives/pyro_elbo.py": [
        "infer/objectives/test_pyro_elbos.py",
        "infer/objectives/test_observing_guides.py",
        "infer/test_annotations.py",
    ],
    "infer/posterior.py": [
        "infer/test_terms.py",
        "infer/test_latent.py",
        "diagnostics/test_collapse.py",
    ],
    "infer/predictive.py": ["likelihoods/test_two_phases.py", "models/test_vae.py"],
    "infer/stock.py": ["infer/test_stock.py", "guides/test_autoguides.py"],
    "infer/terms.py": _TERMS,
    "infer/weights.py": ["infer/test_pareto.py", "infer/test_importance.py"],
    "likelihoods/optimal.py": [*_SIGMA, "likelihoods/test_likelihoods.py", "test_extremes.py"],
    "likelihoods/positive.py": [*_SIGMA, *_TABLES, "likelihoods/test_two_phases.py"],
    "likelihoods/sigma.py": [*_SIGMA, "likelihoods/test_two_phases.py"],
    "likelihoods": [
        "likelihoods/test_likelihoods.py",
        "likelihoods/test_own.py",
        "likelihoods/test_standardized.py",
        *_TABLES,
        *_SIGMA,
        "test_extremes.py",
    ],
    "priors/aggregate.py": ["priors/test_aggregate.py"],
    "priors/base.py": ["priors"],
    "priors/autoregressive.py": ["priors/test_code_prior.py", "priors/test_code_grids.py"],
    "priors/code_prior.py": ["priors/test_code_prior.py", "priors/test_code_grids.py"],
    "priors/flow.py": ["priors/test_flow_prior.py"],
    "priors/mixtures.py": ["priors/test_mixtures.py"],
    "priors/posterior.py": ["priors/test_aggregate.py", "priors/test_two_stage.py"],
    "priors/two_stage.py": ["priors/test_two_stage.py"],
    "programs/belonging.py": ["programs/test_belonging.py"],
    "programs/broadcasting.py": [
        "programs/test_broadcasting.py",
        "guides/test_autoguides.py",
        "infer/test_annotations.py",
    ],
    "programs/checks.py": ["programs/test_checks.py", "training/test_feeds.py", "guides"],
    "programs/means.py": ["programs/test_means.py"],
    "programs/placing.py": _TERMS,
    "programs/reading.py": [*_ELBO, _WEIGHTED, "infer/test_importance.py"],
    "programs/running.py": [*_ELBO, _WEIGHTED, "infer/test_importance.py"],
    "programs/sites.py": ["guides/test_autoguides.py", *_ELBO],
    "programs/support.py": ["programs/test_support.py"],
    "schedules.py": ["test_schedules.py", "training/test_annealing.py"],
    "training/annealing.py": ["training/test_annealing.py", *_TRAINER],
    "training/feeds.py": ["training/test_feeds.py"],
    "training/guard.py": ["training/test_guard.py"],
}


def rows():
    """File, line and mutated line of the listed mutants that change nothing."""
    listed = (line for line in EQUIVALENT.read_text().splitlines() if " | " in line)
    return [tuple(line.split(" | ", 2)) for line in listed if not line.startswith("#")]


def lines_of(file):
    """The lines of a file of the core."""
    path = ROOT / "pyro_vae" / file
    return {line.strip() for line in path.read_text().splitlines()} if path.exists() else set()


def core():
    """Files of the core, relative to the package."""
    package = ROOT / "pyro_vae"
    found = {f for name in TESTS for f in (*(package / name).rglob("*.py"), package / name)}
    return sorted(str(f.relative_to(package)) for f in found if f.suffix == ".py")


def its_tests(file):
    """Arguments of pytest for a file of the core: the tests of its longest prefix in TESTS."""
    name = max((n for n in TESTS if file == n or file.startswith(f"{n}/")), key=len)
    return [f"pyro_vae/{file}", *(f"tests/{test}" for test in TESTS[name])]


@functools.cache
def operators():
    """Name -> operator of cosmic-ray, those that make sense for numbers and conditions."""
    from cosmic_ray import plugins

    arithmetic = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
    found = {}
    for full in plugins.operator_names():
        name = full.removeprefix("core/")
        kind, *ends = name.split("_")
        if kind == "ReplaceBinaryOperator" and not set(ends) <= set(arithmetic):
            continue
        # "==" and "is" are the same for most of what the code compares
        if kind == "ReplaceComparisonOperator" and ("Is" in ends[0]) != ("Is" in ends[1]):
            continue
        if not name.startswith("Variable"):
            found[name] = plugins.get_operator(full)()
    return found


def places(file, known):
    """Span in the code -> names of the mutants there, "file:operator:occurrence"."""
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast((ROOT / "pyro_vae" / file).read_text())))
    found = defaultdict(list)
    for name, operator in known.items():
        spots = [(n, span) for n in nodes for span in operator.mutation_positions(n)]
        for occurrence, (node, span) in enumerate(spots):
            # The star before keyword-only arguments is no product
            if node.parent is None or node.parent.type != "parameters":
                found[span].append(f"{file}:{name}:{occurrence}")
    return found


def drawn(number, seed):
    """Names of mutants: ``number`` places without replacement, and one mutant at each."""
    known, chance = operators(), random.Random(seed)
    found = [names for file in core() for _, names in sorted(places(file, known).items())]
    chance.shuffle(found)
    chosen = (next(filter(compiles, chance.sample(names, len(names))), None) for names in found)
    return list(itertools.islice(filter(None, chosen), number))


def compiles(name):
    """Whether a mutant is Python at all."""
    try:
        compile(mutated(name)[0], name, "exec")
    except SyntaxError:
        return False
    return True


def mutated(name):
    """The code of a mutant, and its first changed line before and after."""
    from cosmic_ray.mutating import mutate_code

    file, operator, occurrence = name.split(":")
    source = (ROOT / "pyro_vae" / file).read_text()
    code = mutate_code(source, operators()[operator], int(occurrence))
    lines = zip(source.splitlines(), code.splitlines(), strict=False)
    changed = next(((i, a.strip(), b.strip()) for i, (a, b) in enumerate(lines, 1) if a != b))
    return code, changed


def run(folder, tests, limit):
    """Exit status of pytest in a fork, None past the limit, and the names of tests that failed."""
    output = folder / "output.txt"
    if not (child := os.fork()):
        os.setsid()
        os.chdir(folder)
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.path.insert(0, str(folder))
        import pytest

        # Not sys.exit, which would run what the parent left to be done at its end
        os._exit(int(pytest.main(["-q", "-p", "no:cacheprovider", "--tb=no", *tests])))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            said = [line.split(" - ")[0] for line in output.read_text().splitlines()]
            failed = [t.split(maxsplit=1)[1] for t in said if t.startswith(("FAILED", "ERROR "))]
            return os.waitstatus_to_exitcode(status), failed
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, ["time"]


@contextlib.contextmanager
def copy():
    """A copy of the checkout, and all that is slow to import, imported once for all forks."""
    import matplotlib.pyplot
    import pyro
    import pytest
    import sklearn.mixture
    import torch
    import torchvision

    _ = matplotlib.pyplot, pyro, pytest, sklearn.mixture, torchvision
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("pyro_vae", "tests", "setup.cfg", "pyproject.toml", "README.md"):
            take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            take(ROOT / name, folder / name)
        os.environ.update(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")
        yield folder


def main():
    """Run the mutants and print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to run again, as printed")
    parser.add_argument("--mutants", type=int, default=200, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args()
    names = given.names or drawn(given.mutants, given.seed)
    listed = rows()
    counts, seconds, left_out = Counter(), {}, {}
    # Two versions of a file may have one size and one time
    sys.dont_write_bytecode = True
    with copy() as folder:
        for name in names:
            file = name.split(":")[0]
            code, (line, before, after) = mutated(name)
            what = f"pyro_vae/{file}:{line} {name}\n    - {before}\n    + {after}"
            if (file, before, after) in listed:
                counts["equivalent"] += 1
                print(f"equivalent {what}", flush=True)
                continue
            tests = its_tests(file)
            if (key := tuple(tests[1:])) not in seconds:
                start = time.monotonic()
                left_out[key] = run(folder, tests, 3600)[1]
                seconds[key] = time.monotonic() - start
                if left_out[key]:
                    print(f"left out, fails without a mutant: {' '.join(left_out[key])}")
            tests = ["-x", *tests, *(f"--deselect={test}" for test in left_out[key])]
            path = folder / "pyro_vae" / file
            right = path.read_text()
            path.write_text(code)
            start = time.monotonic()
            status, failed = run(folder, tests, 4 * seconds[key] + _LIMIT)
            path.write_text(right)
            outcome = "survived" if status == _PASSED else "killed"
            counts[outcome] += 1
            took = f"{time.monotonic() - start:.0f} s"
            print(f"{outcome} {what}\n    {took} {' '.join(failed)}", flush=True)
    counted = counts["killed"] + counts["survived"]
    print(
        f"{sum(counts.values())} mutants: {counts['killed']} killed, {counts['survived']} "
        f"survived, {counts['equivalent']} equivalent; killed {counts['killed']} of {counted}"
    )


if __name__ == "__main__":
    main()
