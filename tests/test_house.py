"""The package keeps the order that ``house.FLOORS`` tells."""

from pathlib import Path

import house
import pytest

CHECKOUT = Path(__file__).parents[1]


def written(folder, **files):
    for name, text in files.items():
        path = folder / house.PACKAGE / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return house.imports(folder)


def test_no_file_imports_from_a_floor_above_its_own():
    assert house.upward(house.imports(CHECKOUT)) == []


def test_long_tests_come_first(request):
    path = CHECKOUT / "tests" / "conftest.py"
    names = request.config.pluginmanager.get_plugin(str(path)).LONG
    assert all((path.parent / name).exists() for name in names)
    long = [item.path.name in names for item in request.session.items]
    assert long == sorted(long, reverse=True)


def test_no_files_import_each_other():
    assert house.circles(house.imports(CHECKOUT)) == []


def test_each_room_is_on_a_floor():
    assert {house.room(module) for module in house.modules(CHECKOUT)} == {*house.FLOORS}


def test_few_modules_lie_flat():
    assert len(house.flat(CHECKOUT)) <= house.MOST_FLAT


def test_no_file_is_too_long():
    longest = next(iter(house.lengths(CHECKOUT).items()))
    assert longest[1] <= house.MOST_LINES, longest


def test_tests_reach_into_few_objects():
    found = house.private(CHECKOUT)
    assert len(found) <= house.MOST_PRIVATE, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "from . import training",
        "from .training import loop",
        "from pyro_vae.training.loop import Loop",
        "import pyro_vae.training.loop as loop",
        "def f():\n    from . import training",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .training import Loop",
    ],
)
def test_every_way_to_import_upwards_is_found(text, tmp_path):
    files = {"training__in____init__": "", "training__in__loop": "Loop = 1"}
    graph = written(tmp_path, ranks=text, **files)
    (found,) = house.upward(graph)
    assert found.startswith("pyro_vae.ranks -> pyro_vae.training")
    assert not house.circles(graph)
    # Downwards is as it should be
    files["training__in__loop"], text = "from .. import ranks", ""
    assert not house.upward(written(tmp_path, ranks=text, **files))


def test_circles_are_found_through_other_files_and_the_folder_itself(tmp_path):
    graph = written(
        tmp_path,
        infer__in____init__="from .svi import SVI",
        infer__in__svi="from .elbo import ELBO",
        infer__in__elbo="def f():\n    from ..infer import SVI",
        infer__in__checks="from . import elbo",
    )
    circle = ["pyro_vae.infer", "pyro_vae.infer.elbo", "pyro_vae.infer.svi"]
    assert house.circles(graph) == [circle]


def test_private_names_in_tests_are_counted(tmp_path):
    (tmp_path / "tests").mkdir()
    text = "from a import _b, c\nself._d, cls._e, a._f, a.b()._g, a.__h__, self.a._i\n"
    (tmp_path / "tests" / "test_a.py").write_text(text)
    found = [line.split()[1] for line in house.private(tmp_path)]
    assert sorted(found) == ["_b", "_f", "_g", "_i"]
