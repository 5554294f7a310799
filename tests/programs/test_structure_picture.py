"""What a plate diagram shows, read from the figure itself."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

from pyro_vae.infer import structure
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models import VAE

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def hierarchical(x):
    scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, scale))
    with pyro.plate("topics of all", 3, dim=-1):
        topic = pyro.sample("topic", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        with pyro.plate("parts", 5, dim=-2):
            part = pyro.sample("part", dist.Normal(z, 1.0))
            with pyro.plate("of parts", 2, dim=-3):
                y = pyro.sample("y", dist.Normal(part, topic.sum().exp()))
            pyro.sample("x", dist.Normal(y.sum(0) + z, scale), obs=x.T)
        pyro.factor("near", -z.square())


def crossed(x):
    columns = pyro.plate("columns", 5, dim=-1)
    with columns:
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x), dim=-2):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with columns:
            pyro.sample("x", dist.Normal(u * v, 1.0), obs=x)


def markov(x, covariate):
    z = covariate
    with pyro.plate("data", len(x)):
        for t in range(5):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


def skip():
    return VAE((5,), (2, 2, 2), likelihood=Gaussian(), skip=True, condition=3).structure


MADE = {
    "hierarchical": lambda: structure(hierarchical, X),
    "crossed": lambda: structure(crossed, X),
    "markov": lambda: structure(markov, (X, X[:, 0])),
    "skip": skip,
}


@pytest.fixture(params=MADE)
def drawn(request):
    found = MADE[request.param]()
    (ax,) = found.plot().axes
    return found, ax


def centre(patch):
    box = patch.get_path().get_extents(patch.get_patch_transform())
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def nodes(ax):
    """Name -> its shape, which is where its text is, or to the left of it."""
    patches = [p for p in ax.patches if isinstance(p, Ellipse | Rectangle)]
    texts = {t.get_text(): t.get_position() for t in ax.texts}
    return {
        name: patch
        for name, (x, y) in texts.items()
        for patch in patches
        if abs(centre(patch)[1] - y) < 1e-9 and abs(centre(patch)[0] - x) < 0.2
    }


def frames(ax):
    """Label -> left, bottom, right, top."""
    boxes = [p.get_bbox() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    labels = [t for t in ax.texts if t.get_text().startswith('"')]
    return {
        label.get_text(): box.extents
        for label in labels
        for box in boxes
        if abs(box.x1 - 0.1 - label.get_position()[0]) < 1e-9
        and abs(box.y0 + 0.07 - label.get_position()[1]) < 1e-9
    }


def inside(point, box):
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def test_every_site_is_there_and_filled_as_what_it_is(drawn):
    found, ax = drawn
    shapes = nodes(ax)
    assert shapes.keys() == found.graph.keys()
    white = {name for name, shape in shapes.items() if shape.get_facecolor()[:3] == (1, 1, 1)}
    assert white == found.latents.keys()
    round_ones = {name for name, shape in shapes.items() if isinstance(shape, Ellipse)}
    factors = {name for name, site in found.observed.items() if site.is_factor}
    assert round_ones == found.graph.keys() - {*found.arguments} - factors


def test_no_two_sites_overlap(drawn):
    _, ax = drawn
    boxes = [
        patch.get_path().get_extents(patch.get_patch_transform()) for patch in nodes(ax).values()
    ]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    limits = (*ax.get_xlim(), *ax.get_ylim())
    for box in boxes:
        assert limits[0] < box.x0 < box.x1 < limits[1] and limits[2] < box.y0 < box.y1 < limits[3]


def test_plates_hold_their_sites_and_no_others(drawn):
    found, ax = drawn
    places = {name: centre(shape) for name, shape in nodes(ax).items()}
    boxes = frames(ax)
    sites = {**found.latents, **found.observed}
    local = {n for n, s in sites.items() if not s.is_global}
    expected = {f'"{found.plate}" (n)': local | {*found.arguments}}
    for name, site in sites.items():
        for plate in site.plates:
            expected.setdefault(f'"{plate.name}" ({plate.size})', set()).add(name)
    assert {
        label: {n for n, place in places.items() if inside(place, box)}
        for label, box in boxes.items()
    } == expected


def test_labels_of_plates_are_apart(drawn):
    _, ax = drawn
    ax.figure.canvas.draw()
    labels = [t for t in ax.texts if t.get_text().startswith('"')]
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for label, box in zip(labels, boxes, strict=True):
        data = box.transformed(ax.transData.inverted())
        x0, y0, x1, y1 = frames(ax)[label.get_text()]
        assert x0 < data.x0 < data.x1 < x1 and y0 < data.y0 < data.y1 < y1


def test_arrows_lead_from_parents_to_children(drawn):
    found, ax = drawn
    places = {name: centre(shape) for name, shape in nodes(ax).items()}

    def nearest(point):
        x, y = point
        return min(places, key=lambda n: (places[n][0] - x) ** 2 + (places[n][1] - y) ** 2)

    arrows = [p.get_path() for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert len(arrows) == sum(map(len, found.graph.values()))
    # The line, which comes before the arrow's head
    lines = [way.vertices[: [*way.codes, way.MOVETO].index(way.MOVETO, 1)] for way in arrows]
    ends = {(nearest(line[0]), nearest(line[-1])) for line in lines}
    assert ends == {(p, n) for n, of in found.graph.items() for p in of}
