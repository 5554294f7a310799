import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import pyro_vae
from pyro_vae import likelihoods
from pyro_vae.ground import names
from pyro_vae.ground.recorded import Recorded, decode, encode

OLD = json.loads((Path(__file__).parents[1] / "files" / "names_of_format2.json").read_text())


@pytest.fixture(scope="module")
def classes():
    """Every class of the package that a file can name."""
    for module in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, todo = {}, [Recorded]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        if cls.__module__.startswith("pyro_vae."):
            found[cls] = None
    return [*found]


def test_no_two_classes_have_the_same_name(classes):
    assert len({names.name_of(cls) for cls in classes}) == len(classes) > 80


def test_every_class_of_format_2_is_still_there(classes):
    present = {names.name_of(cls): cls for cls in classes}
    assert len(OLD) == 83
    for old in OLD:
        found = present[names.current(old)]
        assert found.__name__ == old.rpartition(".")[2]


def test_a_class_of_format_1_whose_module_has_become_a_package():
    assert names.current("pyro_vae.likelihoods.Bernoulli") == "likelihoods.Bernoulli"


def test_a_class_of_a_user_is_named_by_its_place():
    class Own(likelihoods.Bernoulli):
        pass

    name = names.name_of(Own)
    assert name == f"{Own.__module__}.{Own.__qualname__}" == names.current(name)


def test_an_argument_of_another_name_before(monkeypatch):
    class Scaled(Recorded):
        def __init__(self, *, scale):
            self.scale = scale

    name = names.name_of(Scaled)
    monkeypatch.setitem(names.ARGUMENTS, name, {"sd": "scale"})
    written = encode(Scaled(scale=2.0), "value")
    assert decode(written).scale == 2.0
    written["arguments"] = {"sd": 3.0}
    assert decode(written).scale == 3.0
