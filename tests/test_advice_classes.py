"""What is said about classes of a user's own in files, and that its advice works."""

import torch
from advice import Cases
from torch import nn

from pyro_vae import Recorded, load, save

cases = Cases()


def network(place, *, named="Net"):
    class Net(Recorded, nn.Linear):
        __module__, __qualname__ = place, named

        def __init__(self, width):
            super().__init__(2, width)

    return Net


class Changed(network("changed")):
    def __init__(self, *, height):
        super().__init__(height)


class Mended(Changed):
    @classmethod
    def of_file(cls, arguments):
        return {"height": arguments["width"]}


class Holding(Recorded, nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)


@cases
def own_classes(tmp):
    path, net = tmp / "a.pt", network("a")
    save(net(3), path)
    listed = lambda: load(path, classes=[net])  # noqa: E731
    named = lambda: load(path, classes={"Net": net})  # noqa: E731
    yield lambda: load(path, classes=[nn.Linear]), listed, named
    yield (
        lambda: load(path, classes={"Net": Changed}),
        listed,
        lambda: load(path, classes={"Net": Mended}),
    )
    # A mapping where a list does not tell
    a, b = network("a"), network("b")
    save(Holding(a(1), b(2)), path)
    yield (
        lambda: load(path, classes=[network("c")]),
        lambda: load(path, classes={"a.Net": a, "b.Net": b}),
    )


@cases
def modules_alone(tmp):
    path, linear, own = tmp / "a.pt", nn.Linear(1, 1), network("d")(1)
    yield lambda: save(linear, path), lambda: torch.save(linear.state_dict(), path)
    yield (
        lambda: save(own, path, arguments=False),
        lambda: save(own, path),
        lambda: torch.save(own.state_dict(), path),
    )


test_what_is_said_about_classes = cases.test()
