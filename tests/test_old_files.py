"""Files that earlier versions wrote: they load, and mean what they meant."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from pyro_vae import Trainer, load

FOLDER = Path(__file__).parent / "files"
FORMAT2 = FOLDER / "format2"
EXPECTED = json.loads((FORMAT2 / "expected.json").read_text())
PROGRAMS = [name for name in EXPECTED if name.split()[0] not in ("trainer", "run")]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("write_format2", FOLDER / "write_format2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def path_of(name):
    return FORMAT2 / name.replace(" ", "-")


def test_every_file_is_looked_at():
    found = {path.name.removesuffix(".pt") for path in FORMAT2.iterdir()} - {"expected.json"}
    assert found == {name.replace(" ", "-") for name in EXPECTED}
    assert sum(path.stat().st_size for path in FORMAT2.rglob("*.*")) < 500_000


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_format_2_has_the_same_bound(name, script):
    found, expected = load(f"{path_of(name)}.pt"), EXPECTED[name]
    model, guide = found.model, found.guide if isinstance(found, Trainer) else found
    x = torch.tensor(expected["x"])
    y = None if expected["y"] is None else torch.tensor(expected["y"])
    z = {site: torch.tensor(value) for site, value in expected["z"].items()}
    with torch.no_grad():
        bound = script.integrand(model.eval(), guide.eval(), x, y, z)
    torch.testing.assert_close(bound, torch.tensor(expected["bound"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("trainer ")])
def test_a_trainer_of_format_2_goes_on_as_it_would_have(name, script):
    t = script.fit(load(f"{path_of(name)}.pt"), epochs=2)
    assert t.history.column("elbo") == pytest.approx(EXPECTED[name]["elbo"], rel=1e-3)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("run ")])
def test_a_run_of_format_2_is_finished_as_it_would_have_been(name, script, tmp_path):
    folder = shutil.copytree(path_of(name), tmp_path / "run")
    _, x, hooks = script.RUNS[name.removeprefix("run ")]
    t = Trainer.resume(folder).fit(x, callbacks=hooks(), progress=False)
    assert t.step == EXPECTED[name]["step"]
    assert t.history.column("elbo") == pytest.approx(EXPECTED[name]["elbo"], rel=1e-3)
