import json
from fractions import Fraction

import pytest
import torch
from torch import nn

from pyro_vae import guides, handlers, likelihoods, models, schedules
from pyro_vae.ground.recorded import Recorded, decode, encode
from pyro_vae.networks import MLP, ConvDecoder


class Point(Recorded):
    def __init__(self, x, y=0, **other):
        self.x, self.y, self.other = x, y, other


def through_json(value, seen=None, built=None):
    return decode(json.loads(json.dumps(encode(value, "value", seen))), built)


def test_arguments_are_those_that_were_given():
    assert Point(3).arguments == {"x": 3}
    assert Point(3, y=1, z=2).arguments == {"x": 3, "y": 1, "z": 2}


def test_a_bad_call_raises_as_usual():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point(y=3)
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments but 5"):
        Point(1, 2, 3, 4)


class Path(Recorded):
    def __init__(self, *points, closed=False):
        self.points, self.closed = points, closed


def test_a_call_with_any_number_of_arguments():
    start = Point(1)
    path = Path(start, Point(2), start, closed=True)
    assert path.arguments == {"points": path.points, "closed": True}
    again = through_json(path)
    assert [p.x for p in again.points] == [1, 2, 1]
    assert again.points[0] is again.points[2]
    assert again.closed
    assert through_json(Path()).points == ()


def test_modules_among_the_arguments_do_not_become_children():
    vae = models.VAE((3,), latents=1, likelihood=likelihoods.Gaussian(), hidden=())
    guide = guides.BottomUp(vae)
    assert guide.arguments["model"] is vae
    assert not any(module is vae for module in guide.modules())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1, 0.1),
        ("text", "text"),
        ([1, (2, 3)], (1, (2, 3))),
        (torch.Size([2, 3]), (2, 3)),
        (torch.tensor(0.5), 0.5),
        ({"z1": 0.5, "z2": [1]}, {"z1": 0.5, "z2": (1,)}),
        ((), ()),
    ],
)
def test_plain_values_go_there_and_back(value, expected):
    assert through_json(value) == expected


@pytest.mark.parametrize(
    "cls",
    [nn.ReLU, nn.Tanh, nn.SiLU, torch.optim.Adam, torch.optim.lr_scheduler.StepLR],
)
def test_torch_classes_go_there_and_back(cls):
    assert through_json(cls) is cls


@pytest.mark.parametrize(
    "value",
    [schedules.WarmUp(epochs=3, end=2.0), schedules.Constant(4.0), schedules.Cyclical(steps=5)],
)
def test_equal_objects_come_back(value):
    assert through_json(value) == value


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP((2, 3), (5,), (4,), skip=True, activation=nn.Tanh),
        lambda: ConvDecoder(3, (1, 5, 7), event_dim=3, channels=(4,)),
        lambda: models.VAE((6,), (3, 2), likelihood=likelihoods.Categorical(4), condition=3),
        lambda: models.VAE(
            (4, 4),
            2,
            likelihood=likelihoods.Gaussian(0.3),
            decoder=MLP((2,), (), (4, 4)),
            activation=nn.SiLU,
        ),
    ],
)
def test_modules_come_back_with_the_same_parameters_and_arguments(make):
    module = make()
    copy = through_json(module)
    assert type(copy) is type(module)
    assert repr(copy) == repr(module)
    copy.load_state_dict(module.state_dict())
    assert encode(copy, "") == encode(module, "")


def test_an_object_met_twice_comes_back_once():
    shared = Point(1)
    first, second = through_json([shared, Point(shared)])
    assert second.x is first


def test_objects_are_shared_between_the_parts_of_one_file():
    vae = models.VAE((3,), latents=1, likelihood=likelihoods.Gaussian(), hidden=())
    guide = guides.BottomUp(vae)
    seen, built = {}, {}
    parts = [json.dumps(encode(part, "part", seen)) for part in (vae, guide)]
    model, guide = (decode(json.loads(part), built) for part in parts)
    assert guide.model is model


def test_effects_on_programs_come_back():
    vae = models.VAE((3,), latents=1, likelihood=likelihoods.Gaussian(), hidden=())
    copy = through_json(handlers.scale_latents(vae, {"z1": torch.tensor(0.25)}))
    assert copy.effect.beta == {"z1": 0.25}
    assert copy.program.event_shape == (3,)


@pytest.mark.parametrize(
    "value",
    [lambda x: x, torch.zeros(2), Fraction(1, 3), nn.Linear(2, 2), nn.functional.relu, str, 1j],
)
def test_what_json_cannot_hold_is_refused_by_its_place(value):
    with pytest.raises(TypeError) as error:
        encode(Point(1, y=[0, {"inner": value}]), "model")
    message = str(error.value)
    assert message.startswith("model.y[1]['inner']: expected a value that JSON can hold")
    assert "arguments=False" in message


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.modules.module.__builtins__",
        "torch.nn.__builtins__",
        "torch.nn.functional",
        "torch.nn.init",
        "torch.nn.NoSuchThing",
        "torch.optim.lr_scheduler.partial",
        "torch.optim.lr_scheduler.Counter",
        "torch.optim.lr_scheduler.warnings",
        "torch.load",
        "torch.hub.load",
        "os.system",
        "system",
        "",
        3,
    ],
)
def test_only_torch_classes_are_taken_from_torch(name):
    with pytest.raises(ValueError, match="which is not a torch class"):
        decode({"$torch": name})


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "subprocess.Popen", "torch.nn.modules.linear.Linear", "Point"],
)
def test_only_recorded_classes_are_ever_constructed(name):
    with pytest.raises(ValueError, match="import the module that defines it"):
        decode({"$class": name, "$id": 0, "arguments": {"args": ["true"]}})


def test_refused_inside_arguments_too():
    value = encode(Point(1), "")
    value["arguments"]["x"] = {"$class": "os.system", "$id": 1, "arguments": {}}
    with pytest.raises(ValueError, match=r"needs the class 'os\.system'"):
        decode(value)


def test_a_reference_to_nothing_is_refused():
    with pytest.raises(ValueError, match="refers to object 7, which it does not hold"):
        decode([{"$ref": 7}])


def test_whole_numbers_of_numpy_are_whole_numbers():
    import numpy as np

    assert encode(np.int64(3), "latents") == 3 and type(encode(np.int64(3), "latents")) is int
