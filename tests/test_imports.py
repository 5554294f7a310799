"""What is imported, and when."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import pyro_vae


def imported(script):
    """The modules of a process that ran a script."""
    script += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return {*done.stderr.split()}, done.stdout


HELP = """
from pyro_vae.cli import main
try:
    main([{!r}])
except SystemExit as end:
    assert end.code == 0
"""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_torch(option):
    modules, told = imported(HELP.format(option))
    assert not {"torch", "pyro", "matplotlib", "numpy"} & modules
    assert pyro_vae.__version__ in told if option == "--version" else "interpolate" in told


def test_the_script_of_a_shell_needs_no_torch():
    script = "from pyro_vae.cli import main\nassert main(['completion', 'bash']) == 0"
    modules, told = imported(script)
    assert not {"torch", "pyro", "matplotlib", "numpy"} & modules
    assert told.endswith("complete -o default -F _pyro_vae pyro-vae\n")


def test_the_package_alone_is_its_names():
    modules, told = imported("import pyro_vae; print(*dir(pyro_vae))")
    assert "torch" not in modules
    assert told.split() == sorted(pyro_vae.__all__)


def test_all_of_the_package_leaves_out_what_few_need():
    slow = {"torchvision", "sklearn", "scipy", "pandas", "torch._dynamo", "IPython", "ipywidgets"}
    slow |= {"matplotlib"}
    modules, _ = imported("from pyro_vae import *")
    assert "pyro_vae.training.trainer" in modules
    assert not slow & modules


def test_no_file_of_pictures_hides_a_picture():
    """Importing a file sets its name in its folder."""
    files = {module.name for module in pkgutil.iter_modules(pyro_vae.plots.__path__)}
    assert "curves" in files and not files & {*pyro_vae.plots.__all__}


def test_a_run_leaves_out_pictures_and_torch_s_compiler():
    script = """
import torch
from pyro_vae import Trainer, data, diagnostics, guides, likelihoods, models
vae = models.VAE((3,), 2, likelihood=likelihoods.Gaussian(), hidden=())
trainer = Trainer(vae, guides.BottomUp(vae), seed=0, engine="graph")
trainer.fit(torch.randn(40, 3), epochs=1, batch_size=1, progress=False)
print(trainer.steps.running.records)
"""
    modules, told = imported(script)
    assert told == "1\n"
    assert not {"matplotlib", "torch._dynamo", "pyro.contrib", "scipy", "pandas"} & modules


def test_a_class_that_nobody_imported_is_found_for_a_file():
    script = """
from pyro_vae.ground.recorded import decode
print(decode({"$class": "schedules.WarmUp", "$id": 0, "arguments": {"epochs": 3}}))
"""
    assert "WarmUp(epochs=3" in imported(script)[1]


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'modles'"):
        _ = pyro_vae.modles


ROOMS = [m.name for m in pkgutil.iter_modules(pyro_vae.__path__) if m.name != "__main__"]
# Rooms of the library's own, from which nobody imports by completion
_INNER = {"ground", "programs", "storage", "version"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in _INNER])
def test_completion_offers_what_is_meant(room):
    module = importlib.import_module(f"pyro_vae.{room}")
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        shown = getattr(module, name)
        for base in shown.__mro__ if inspect.isclass(shown) else ():
            if base.__module__.startswith("pyro_vae."):
                inside = getattr(shown, "inside", ())
                members = {n: v for n, v in vars(base).items() if n[0] != "_" and n not in inside}
                bare = [n for n, v in members.items() if callable(v) and not inspect.getdoc(v)]
                assert not bare, (name, base, bare)


def test_completion_of_objects_leaves_out_machinery():
    vae = pyro_vae.models.VAE((3,), 2, likelihood=pyro_vae.likelihoods.Gaussian(), hidden=())
    guide = pyro_vae.guides.BottomUp(vae)
    panel = pyro_vae.notebook.Panel(
        {"VAE": vae}, {"own": type(guide)}, pyro_vae.data.load("digits")
    )
    found = (vae, guide, pyro_vae.Trainer(vae, guide), vae.likelihood, panel)
    for shown in found:
        inside = {n for base in type(shown).__mro__ for n in vars(base).get("inside", ())}
        assert not inside & {*dir(shown)}
        public = {name for name in dir(shown) if name[0] != "_"}
        assert public and not public & {"of_file", "absent", "inside", "state", "told_collapsed"}
