"""Pictures of ways through latent space, compared with the numbers that they show."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from drawn import assert_drawn, assert_written_beside, binary, cells, functions, pair, texts
from torch.distributions import Normal, kl_divergence

from pyro_vae import infer, plots
from pyro_vae.guides import Delta
from pyro_vae.plots import drawing

X = torch.randint(2, (30, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float()
SMALL = {"event_shape": (1, 4, 4), "hidden": (8,)}

# interpolation


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (4, 5), (6,)])
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_interpolation_runs_between_the_reconstructions(event_shape, kind):
    model, guide = pair(event_shape) if kind == "library" else functions(event_shape)
    x = torch.rand(6, *event_shape)
    ends = infer.reconstruct(model, guide, x)
    if drawing.is_image(event_shape):
        ends = ends.reshape(6, -1, *event_shape[-2:]).expand(6, 3, *event_shape[-2:])
    many = plots.interpolation(model, guide, x[:3], x[3:], steps=5)
    shown = cells(many, 3, 5, event_shape)
    torch.testing.assert_close(shown[:, 0], ends[:3])
    torch.testing.assert_close(shown[:, 4], ends[3:])
    assert texts(many.get_xticklabels()) == ["0", "0.25", "0.5", "0.75", "1"]
    one = plots.interpolation(model, guide, x[1], x[4], steps=5)
    torch.testing.assert_close(cells(one, 1, 5, event_shape)[0], shown[1])
    between = infer.interpolate(model, guide, x[1], x[4], steps=5)
    assert_drawn(one, between, 1, 5)


def test_interpolation_between_labels():
    vae, guide = pair(condition=3)
    x, y = torch.rand(4, 1, 4, 5), torch.tensor([[0, 2], [1, 0]])
    ax = plots.interpolation(vae, guide, x[:2], x[2:], steps=3, y=y)
    shown = cells(ax, 2, 3, (1, 4, 5))
    for i in range(2):
        expected = infer.interpolate(vae, guide, x[i], x[i + 2], steps=3, y=y[i])
        torch.testing.assert_close(shown[i], expected.expand_as(shown[i]))
    same = plots.interpolation(vae, guide, x[:2], x[2:], steps=3, y=y[0])
    torch.testing.assert_close(cells(same, 2, 3, (1, 4, 5))[0], shown[0])


@pytest.mark.parametrize(
    ("start", "end", "kwargs", "message"),
    [
        ((1, 4, 5), (2, 1, 4, 5), {}, "equal shapes"),
        ((4, 4), (4, 4), {}, "one datum of shape"),
        ((0, 1, 4, 5), (0, 1, 4, 5), {}, "one datum of shape"),
        ((1, 4, 5), (1, 4, 5), {"steps": 1}, "steps"),
        ((1, 4, 5), (1, 4, 5), {"y": torch.tensor([1])}, "labels of start and end"),
    ],
)
@pytest.mark.parametrize("kind", ["library", "functions"])
def test_interpolation_rejects(start, end, kwargs, message, kind):
    model, guide = pair() if kind == "library" else functions()
    with pytest.raises(ValueError, match=message):
        plots.interpolation(model, guide, torch.rand(start), torch.rand(end), **kwargs)


# traversals


def test_traversals_show_infer_traverse():
    vae, guide = pair(latents=5)
    x, values = binary(1, 4, 5), [-2.0, -0.5, 0.5, 2.0]
    ax = plots.traversals(vae, guide, x, dims=[4, 0, 2], values=values)
    expected = infer.traverse(
        vae, guide, x, site="z1", dims=[4, 0, 2], values=torch.tensor(values)
    )
    assert_drawn(ax, expected.flatten(0, 1), 3, 4)
    assert_written_beside(ax, 3, 4)
    assert texts(ax.get_xticklabels()) == ["-2", "-0.5", "0.5", "2"]
    assert [t.split()[0] for t in texts(ax.get_yticklabels())] == ["z1[4]", "z1[0]", "z1[2]"]


def test_traversals_choose_the_units_of_largest_kl():
    vae, guide = pair(latents=12)
    x = binary(1, 1, 4, 5)
    q = guide(x) and pyro.poutine.trace(guide).get_trace(x).nodes["z1"]["fn"].base_dist
    kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0))[0]
    order = kl.argsort(descending=True)[:10].tolist()
    ax = plots.traversals(vae, guide, x)
    names = [f"z1[{d}]\n{kl[d]:.2f} nats" for d in order]
    assert texts(ax.get_yticklabels()) == names
    assert_drawn(ax, infer.traverse(vae, guide, x[0], site="z1", dims=order).flatten(0, 1), 10, 7)


def test_kl_of_a_unit_is_measured_against_its_conditional_prior():
    vae, guide = pair(latents=(3, 2))
    x = binary(1, 1, 4, 5)
    means = infer.encode(guide, x).mean
    q = pyro.poutine.trace(guide).get_trace(x).nodes["z1"]["fn"].base_dist
    model = pyro.poutine.condition(vae, data={"z2": means["z2"]})
    p = pyro.poutine.trace(model).get_trace(x).nodes["z1"]["fn"].base_dist
    kl = torch.distributions.kl_divergence(q, p)[0]
    ax = plots.traversals(vae, guide, x, dims=[0, 1, 2])
    names = [f"z1[{d}]\n{kl[d]:.2f} nats" for d in range(3)]
    assert texts(ax.get_yticklabels()) == names
    upper = plots.traversals(vae, guide, x, site="z2", dims=[1])
    assert_drawn(upper, infer.traverse(vae, guide, x[0], site="z2", dims=[1])[0], 1, 7)


def test_traversals_of_a_point_mass_rank_by_distance_from_the_prior_mean():
    vae, _ = pair(latents=4)
    guide, x = Delta(vae), binary(1, 4, 5)
    order = guide.encode(x[None]).mean["z1"][0].abs().argsort(descending=True).tolist()
    labels = texts(plots.traversals(vae, guide, x).get_yticklabels())
    assert [t.split()[0] for t in labels] == [f"z1[{d}]" for d in order]


def test_traversals_of_functions_and_vectors():
    model, guide = functions((6,))
    x = torch.rand(6)
    ax = plots.traversals(model, guide, x, dims=[2, 0])
    expected = infer.traverse(model, guide, x, site="code", dims=[2, 0])
    assert_drawn(ax, expected.flatten(0, 1), 2, 7)
    assert ax.get_yticklabels()[0].get_text().startswith("code[2]")


@pytest.mark.parametrize("y", [2, torch.tensor(2)])
def test_traversals_of_a_conditional_pair(y):
    vae, guide = pair(condition=3)
    x = binary(1, 4, 5)
    ax = plots.traversals(vae, guide, x, dims=[0, 1], y=y)
    expected = infer.traverse(vae, guide, x, site="z1", y=torch.tensor(2))
    assert_drawn(ax, expected.flatten(0, 1), 2, 7)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"site": "z9"}, "site: expected one of z1, got 'z9'"),
        ({"dims": [2]}, "units 0 to 1 of 'z1'"),
        ({"dims": []}, "units 0 to 1"),
        ({"values": []}, "values"),
        ({"values": torch.zeros(2, 2)}, "values"),
        ({"x": binary(2, 1, 4, 5)}, r"pass x\[0\]"),
        ({"x": torch.rand(4, 4)}, "one datum of shape"),
    ],
)
def test_traversals_reject(kwargs, message):
    kwargs = {"x": binary(1, 4, 5)} | kwargs
    with pytest.raises(ValueError, match=message):
        plots.traversals(*pair(), **kwargs)


def test_traversals_rank_units_by_their_kl_over_the_data():
    vae, guide = pair(latents=4, **SMALL)
    with torch.no_grad():
        guide.conditionals["z1"].loc.weight.mul_(4)
    q = guide.conditionals["z1"](X).base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).detach()
    labels = [
        label.get_text()
        for label in plots.traversals(vae, guide, X[0], data=X, values=[0.0]).get_yticklabels()
    ]
    order = kl.mean(0).argsort(descending=True).tolist()
    assert labels == [f"z1[{u}]\n{float(kl.mean(0)[u]):.2f} nats" for u in order]
    alone = plots.traversals(vae, guide, X[0], values=[0.0]).get_yticklabels()
    order = kl[0].argsort(descending=True).tolist()
    assert [a.get_text() for a in alone] == [f"z1[{u}]\n{float(kl[0, u]):.2f} nats" for u in order]


def test_traversals_of_a_conditional_pair_over_data():
    vae, guide = pair(condition=3, **SMALL)
    ax = plots.traversals(vae, guide, X[0], y=1, data=X)
    q = guide.conditionals["z1"](X, torch.eye(3)[1].expand(30, 3)).base_dist
    kl = kl_divergence(Normal(q.loc, q.scale), Normal(0.0, 1.0)).detach().mean(0)
    assert ax.get_yticklabels()[0].get_text().endswith(f"\n{float(kl.max()):.2f} nats")


def positive_pair():
    """A site of LogNormals, whose KL to the prior is that of normals; it needs positive data."""

    def model(x):
        assert (x > 0).all()
        with pyro.plate("rows", len(x)):
            size = pyro.sample("size", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Gamma(100.0, 100 / size).to_event(1), obs=x)

    def guide(x):
        assert (x > 0).all()
        with pyro.plate("rows", len(x)):
            pyro.sample("size", dist.LogNormal(x.log(), 0.5).to_event(1))

    return model, guide


def test_traversals_of_a_positive_site_are_in_logarithms():
    model, guide = positive_pair()
    x = torch.tensor([[0.5, 3.0]])
    ax = plots.traversals(model, guide, x, dims=[0, 1], values=[-2.0, 0.0, 1.0])
    expected = infer.traverse(
        model, guide, x[0], site="size", values=torch.tensor([-2.0, 0.0, 1.0])
    )
    assert_drawn(ax, expected.flatten(0, 1), 2, 3)
    torch.testing.assert_close(expected[0, :, 0], torch.tensor([-2.0, 0.0, 1.0]).exp())
    assert ax.get_xlabel() == "unconstrained coordinate of the unit"
    kl = kl_divergence(Normal(x[0].log(), 0.5), Normal(0.0, 1.0))
    shown = [float(text.split("\n")[1].split()[0]) for text in texts(ax.get_yticklabels())]
    # Of 1,000 draws
    assert shown == pytest.approx(kl.tolist(), abs=0.2)


def test_a_grid_and_pictures_of_a_program_that_needs_positive_data():
    model, guide = positive_pair()
    x = torch.rand(6, 2) + 0.5
    ax = plots.latent_grid(model, like=x, site="size", steps=3)
    axis, means = infer.grid_2d(model, like=x, site="size", steps=3)
    assert_drawn(ax, means.flatten(0, 1), 3, 3)
    torch.testing.assert_close(means[0, 2], axis[[2, 2]].exp())
    assert ax.get_xlabel() == "size[0], unconstrained"
    for draw in (
        lambda: plots.samples(model, 4, like=x),
        lambda: plots.layer_samples(model, "size", like=x),
        lambda: plots.reconstructions(model, guide, x),
        lambda: plots.uncertainty(model, guide, x),
        lambda: plots.interpolation(model, guide, x[:2], x[2:4]),
    ):
        draw()


# latent_grid


@pytest.mark.parametrize("event_shape", [(1, 4, 5), (6,)])
def test_latent_grid_shows_infer_grid(event_shape):
    vae, _ = pair(event_shape)
    like = torch.rand(1, *event_shape)
    ax = plots.latent_grid(vae, like=like, steps=5)
    axis, means = infer.grid_2d(vae, like=like, steps=5)
    assert_drawn(ax, means.flatten(0, 1), 5, 5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1[0]", "z1[1]")
    # the second unit grows upwards, and the row above has the smaller position
    assert [float(t) for t in texts(ax.get_xticklabels())] == pytest.approx(
        axis.tolist(), abs=0.01
    )
    heights = [float(t) for t in texts(ax.get_yticklabels())]
    assert heights == pytest.approx(axis.flip(0).tolist(), abs=0.01)
    assert list(ax.get_yticks()) == sorted(ax.get_yticks())


def test_latent_grid_thins_its_labels_and_centres_them():
    ax = plots.latent_grid(pair()[0], like=torch.rand(1, 1, 4, 5), steps=15)
    assert_written_beside(ax, 8, 8)


def test_latent_grid_of_an_upper_site_and_a_label():
    vae, _ = pair(latents=(5, 2), condition=3)
    like = torch.rand(1, 1, 4, 5)
    ax = plots.latent_grid(vae, like=like, site="z2", steps=3, y=1)
    _, means = infer.grid_2d(vae, like=like, site="z2", steps=3, y=1)
    assert_drawn(ax, means.flatten(0, 1), 3, 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "'z1' has 5: use plots.traversals"),
        ({"site": "code"}, "site: expected one of z2, z1, got 'code'"),
        ({"steps": 0}, "steps"),
    ],
)
def test_latent_grid_rejects(kwargs, message):
    with pytest.raises(ValueError, match=message):
        plots.latent_grid(pair(latents=(5, 2))[0], like=torch.rand(1, 1, 4, 5), **kwargs)


def test_a_site_that_is_no_vector_is_named():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("grid", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("grid", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))

    with pytest.raises(ValueError, match=r"'grid' has shape \(3, 2\)"):
        plots.latent_scatter(guide, torch.rand(4, 3), site="grid")
    with pytest.raises(ValueError, match="expected two channels, 'grid' has 3"):
        plots.latent_grid(model, like=torch.rand(1, 3), site="grid")
