"""Constructors of any signature: objects come back from a file as they were called."""

import pytest
import torch
from torch import nn

from pyro_vae import Recorded, load, save


class Part(Recorded, nn.Module):
    """What all have in common."""

    def held(self, *given):
        super().__init__()
        self.given, self.weight = given, nn.Parameter(torch.zeros(2))


class BehindOthers(Part):
    def __init__(self, width, depth=2, *more, scale=1.0, **options):
        self.held(width, depth, more, scale, options)


class ByPlace(Part):
    def __init__(self, width, depth=2, /, scale=1.0):
        self.held(width, depth, scale)


class OtherSelf(Part):
    def __init__(this, self, width=3):
        this.held(self, width)


class Everything(Part):
    def __init__(*given, **options):
        given[0].held(given[1:], options)


@pytest.mark.parametrize(
    "part",
    [
        BehindOthers(4),
        BehindOthers(4, 5),
        BehindOthers(4, 5, 6, 7, scale=2.0, other="a"),
        BehindOthers(width=4, scale=2.0),
        ByPlace(4),
        ByPlace(4, 5, scale=2.0),
        OtherSelf(4),
        OtherSelf(self=4, width=5),
        Everything(1, 2, three=3),
    ],
)
def test_a_part_is_built_as_it_was(part, tmp_path):
    save(part, tmp_path / "part.pt")
    assert load(tmp_path / "part.pt", classes=[type(part)]).given == part.given


@pytest.mark.parametrize("key", ["$ref", "$class", "$torch", 1])
def test_a_mapping_that_would_come_back_as_something_else_is_refused(key, tmp_path):
    with pytest.raises(TypeError, match=r"^part\.options: expected a value that JSON can hold"):
        save(BehindOthers(4, options={key: 0}), tmp_path / "part.pt")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, KeyError, TypeError, ValueError])
@pytest.mark.parametrize("where", ["constructor", "of_file"])
def test_what_an_own_class_raises_is_told_with_its_name(tmp_path, error, where):
    class Fragile(Recorded, torch.nn.Module):
        broken = ""

        def __init__(self, width: int) -> None:
            super().__init__()
            self._fail("constructor")
            self.layer = torch.nn.Linear(2, width)

        @classmethod
        def _fail(cls, place):
            if cls.broken == place:
                raise error("no such device")

        @classmethod
        def of_file(cls, arguments):
            cls._fail("of_file")
            return arguments

    save(Fragile(3), tmp_path / "part.pt")
    Fragile.broken = where
    told = f"part.pt: Fragile: its {where} raised {error.__name__} for .*no such device"
    with pytest.raises(ValueError, match=told) as caught:
        load(tmp_path / "part.pt", classes=[Fragile])
    assert "damaged" not in str(caught.value)
