import itertools
import math

import pytest
import torch
from torch.autograd.functional import jacobian

from pyro_vae import Trainer, codebooks, guides, infer, likelihoods, models
from pyro_vae.codebooks import FiniteScalar, Gradient, LookupFree, MovingAverage, Residual
from pyro_vae.codebooks.base import one_hot

GRIDS = [FiniteScalar((3, 2, 4)), FiniteScalar((5,)), FiniteScalar((2, 2)), LookupFree(5)]


@pytest.mark.parametrize("codebook", GRIDS, ids=repr)
def test_codes_and_vectors_are_one_to_one(codebook):
    index = torch.arange(codebook.codes)
    vectors = codebook.vectors(index)
    assert len(vectors.unique(dim=0)) == codebook.codes
    assert torch.equal(codebook.nearest(vectors), index)
    assert torch.equal(codebook(one_hot(index, codebook.codes, vectors)), vectors)
    z = 3 * torch.randn(200, 2, codebook.code_dim)
    bounded = codebook.bounded(z)
    distances = (bounded.unsqueeze(-2) - vectors).square().sum(-1)
    assert torch.equal(codebook.nearest(bounded), distances.argmin(-1))


def test_finite_scalar_levels_are_equally_spaced_and_numbered_from_the_first():
    codebook = FiniteScalar((3, 2))
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    assert codebook.vectors(torch.arange(6)).tolist() == expected
    assert FiniteScalar((4,)).weight.flatten().tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert codebook.levels == (3, 2) and not list(codebook.parameters())
    bits = [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert LookupFree(2).vectors(torch.arange(4)).tolist() == bits


def test_entropies_of_lookup_free_codes_by_hand():
    codebook = LookupFree(2, entropy=0.3, temperature=0.7)
    z = torch.randn(4, 3, 2, requires_grad=True)
    e = codebook.vectors(codebook.nearest(z))
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)))
    q = (-(z.unsqueeze(-2) - corners).square().sum(-1) / 0.7).softmax(-1)
    mean = q.reshape(-1, 4).mean(0)
    sure, spread = -(q * q.log()).sum(-1), -(mean * mean.log()).sum()
    expected = 0.25 * (z - e).square().sum(-1) + 0.3 * (sure - spread)
    cost = codebook.encoder_cost(z, e, codebook.nearest(z), 0.25)
    torch.testing.assert_close(cost, expected)
    gradients = [torch.autograd.grad(c.sum(), z, retain_graph=True)[0] for c in (cost, expected)]
    torch.testing.assert_close(*gradients)
    plain = LookupFree(2, entropy=0).encoder_cost(z, e, codebook.nearest(z), 0.25)
    torch.testing.assert_close(plain, 0.25 * (z - e).square().sum(-1))
    # The cost is least where outputs are at all corners alike, and sure
    spread_out = codebook.encoder_cost(9 * corners, corners, None, 0.0)
    together = codebook.encoder_cost(torch.zeros(4, 2) + corners[0], corners, None, 0.0)
    assert spread_out.mean() == pytest.approx(-0.3 * math.log(4), abs=1e-4)
    assert spread_out.mean() < together.mean()


def test_outputs_far_from_a_code_have_the_gradient_of_its_entropy():
    codebook = LookupFree(2, entropy=1.0)
    # exp(-4 * 40) is 0 in single precision alone
    z = torch.tensor([[40.0, 40.0], [41.0, 39.0], [40.0, 0.3]], requires_grad=True)
    cost = codebook.encoder_cost(z, z.detach().sign(), None, 0.25)
    (gradient,) = torch.autograd.grad(cost.sum(), z)
    corners = codebook.weight.double()
    wide = z.detach().double().requires_grad_()
    q = (-(wide.unsqueeze(-2) - corners).square().sum(-1)).softmax(-1)
    mean = q.mean(0)
    expected = -(q * q.log()).sum() + len(z) * (mean * mean.log()).sum()
    expected = expected + 0.25 * (wide - wide.detach().sign()).square().sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, wide)[0].float())


@pytest.mark.parametrize("make", [Gradient, MovingAverage])
def test_a_stack_takes_the_code_next_to_what_is_left(make):
    codebook = Residual(3, make(4, 2, initializer=None))
    with torch.no_grad():
        for book in codebook.books:
            book.weight.copy_(torch.randn(4, 2))
    z = torch.randn(50, 2)
    index, left, partial = codebook.nearest(z), z.clone(), torch.zeros(50, 2)
    cost = torch.zeros(50)
    for d, book in enumerate(codebook.books):
        nearest = (left.unsqueeze(1) - book.weight).square().sum(-1).argmin(-1)
        assert torch.equal(index[:, d], nearest)
        partial = partial + book.weight[nearest].detach()
        left = left - book.weight[nearest].detach()
        cost += 0.7 * (z - partial).square().sum(-1)
    torch.testing.assert_close(codebook.vectors(index), partial)
    torch.testing.assert_close(codebook.encoder_cost(z, partial, index, 0.7), cost)
    codes = one_hot(index, 4, z)
    torch.testing.assert_close(codebook(codes), partial)


def test_each_step_of_a_stack_learns_from_what_reaches_it():
    books = [MovingAverage(4, 2, decay=0.9, revive=0, initializer=None) for _ in range(2)]
    codebook = Residual(2, MovingAverage(4, 2, decay=0.9, revive=0, initializer=None))
    for mine, book in zip(books, codebook.books, strict=True):
        book.weight.copy_(torch.randn(4, 2))
        book.sums.copy_(book.weight)
        mine.load_state_dict(book.state_dict())
    z = torch.randn(30, 2)
    index = codebook.nearest(z)
    first = books[0].vectors(index[:, 0]).clone()
    assert codebook.learn(z, index) is None
    books[0].learn(z, index[:, 0])
    books[1].learn(z - first, index[:, 1])
    for mine, book in zip(books, codebook.books, strict=True):
        assert torch.equal(mine.weight, book.weight)
    gradient = Residual(2, Gradient(4, 2, initializer=None))
    index = gradient.nearest(z)
    parts = [book.weight[index[:, d]] for d, book in enumerate(gradient.books)]
    expected = (z - parts[0]).square().sum(-1) + (z - parts[0].detach() - parts[1]).square().sum(
        -1
    )
    cost = gradient.learn(z, index)
    torch.testing.assert_close(cost, expected)
    cost.sum().backward()
    assert all(book.weight.grad.abs().sum() > 0 for book in gradient.books)


def test_k_means_starts_each_step_at_what_reaches_it():
    codebook = Residual(2, MovingAverage(2, 1))
    z = torch.tensor([[-11.0], [-9.0], [9.0], [11.0]]).repeat(20, 1)
    for seed in range(20):  # random starts find the clusters now and then
        torch.manual_seed(seed)
        for book in codebook.books:
            book.initialized = False
        codebook.initialize(z)
        if len(codebook.nearest(z).unique(dim=0)) == 4:
            break
    torch.testing.assert_close(
        codebook.books[0].weight.sort(0).values, torch.tensor([[-10.0], [10]])
    )
    torch.testing.assert_close(
        codebook.books[1].weight.sort(0).values, torch.tensor([[-1.0], [1]])
    )
    torch.testing.assert_close(codebook.vectors(codebook.nearest(z)), z)
    before = [book.weight.clone() for book in codebook.books]
    codebook.initialize(z + 5)
    assert all(torch.equal(a, b.weight) for a, b in zip(before, codebook.books, strict=True))


def test_a_frozen_stack_stays():
    codebook = Residual(2, Gradient(4, 2, initializer=None)).freeze()
    z = torch.randn(9, 2)
    assert codebook.learn(z, codebook.nearest(z)) is None
    assert not any(p.requires_grad for p in codebook.parameters())
    twin = Residual(2, Gradient(4, 2, initializer=None))
    twin.load_state_dict(codebook.state_dict())
    assert twin.frozen and all(book.frozen for book in twin.books)
    assert all(p.requires_grad for p in codebook.freeze(False).parameters())


def pair(codebook, **options):
    sizes = {"channels": (4, 5), "blocks": 1, "likelihood": likelihoods.Bernoulli()}
    vqvae = models.VQVAE((1, 8, 8), codebook=codebook, **sizes)
    return vqvae, guides.NearestCode(vqvae, **options)


def twin_of(pair, make):
    """A pair with another codebook, and networks of the same weights."""
    twin = tuple(other.double() for other in make())
    for old, new in zip(pair, twin, strict=True):
        state = {k: v for k, v in old.state_dict().items() if not k.startswith("codebook")}
        new.load_state_dict(state, strict=False)
    return twin


@pytest.mark.parametrize("make", [Gradient, MovingAverage])
def test_one_step_is_the_plain_codebook_to_the_bit(make):
    plain = [m.double() for m in pair(make(6, 3))]
    stack = twin_of(plain, lambda: pair(Residual(1, make(6, 3))))
    stack[0].codebook.books[0].load_state_dict(plain[0].codebook.state_dict())
    x = torch.randint(2, (40, 1, 8, 8)).double()
    trainers = [Trainer(*each, seed=0) for each in (plain, stack)]
    for trainer in trainers:
        trainer.fit(x, epochs=3, batch_size=10, progress=False)
    assert [r["elbo"] for r in trainers[0].history] == [r["elbo"] for r in trainers[1].history]
    assert torch.equal(plain[0].codebook.weight, stack[0].codebook.books[0].weight)
    assert torch.equal(plain[1].codes(x), stack[1].codes(x)[..., 0])


SIZES = {
    "finite scalar": (lambda: FiniteScalar((3, 2, 4)), math.log(24)),
    "lookup-free": (lambda: LookupFree(5), 5 * math.log(2)),
    "residual": (lambda: Residual(3, MovingAverage(7, 3)), 3 * math.log(7)),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_bound_is_the_reconstruction_less_positions_times_log_codes(name):
    make, nats = SIZES[name]
    vqvae, guide = pair(make())
    x = torch.randint(2, (9, 1, 8, 8)).float()
    Trainer(vqvae, guide, seed=0).fit(x, epochs=1, progress=False)
    terms = infer.elbo_terms(vqvae, guide, x)
    torch.testing.assert_close(terms.kl["z1"], torch.full((9,), 4 * nats))
    codes = guide.codes(x)
    vectors = vqvae.codebook.vectors(codes)
    with torch.no_grad():
        logits = vqvae.decoder(vectors)
    by_hand = (x * logits - torch.nn.functional.softplus(logits)).sum((1, 2, 3)) - 4 * nats
    torch.testing.assert_close(terms.elbo, by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vqvae.decode(codes).log_prob(x), terms.reconstruction)


def test_the_gradient_of_finite_scalar_goes_through_tanh_alone():
    vqvae, guide = pair(FiniteScalar((5, 4)))
    x = torch.randint(2, (3, 1, 8, 8)).float()
    z_e = guide.encoder(x).detach().requires_grad_()
    guide.encoder.forward = lambda _: z_e
    loss, _ = infer.TraceELBO()(vqvae, guide, x)
    loss.backward()
    e = vqvae.codebook.vectors(guide.codes(x)).requires_grad_()
    (gradient,) = torch.autograd.grad(-vqvae.likelihood(vqvae.decoder(e)).log_prob(x).sum(), e)
    torch.testing.assert_close(z_e.grad, gradient * (1 - z_e.detach().tanh().square()))


def test_the_jacobian_of_the_rotation_is_the_scaled_rotation_in_the_plane():
    z, e = torch.randn(2, 5, dtype=torch.double)
    found = jacobian(lambda v: codebooks.Rotation()(v, e), z)
    scale = e.norm() / z.norm()
    # The rotation in the plane of the two, by their angle
    u = z / z.norm()
    v = e / e.norm() - (u @ e / e.norm()) * u
    cos, v = u @ e / e.norm(), v / v.norm()
    sin = (1 - cos**2).sqrt()
    outer = torch.outer
    rotation = torch.eye(5, dtype=torch.double) + (cos - 1) * (outer(u, u) + outer(v, v))
    rotation = rotation + sin * (outer(v, u) - outer(u, v))
    torch.testing.assert_close(found, scale * rotation)
    torch.testing.assert_close(found @ z, e)
    torch.testing.assert_close(found @ found.T, scale**2 * torch.eye(5, dtype=torch.double))
    assert torch.equal(codebooks.Rotation()(z, e), e)
    # Where no rotation is defined
    straight = torch.eye(5, dtype=torch.double)
    zero = torch.zeros(5, dtype=torch.double)
    for a, b in ((z, -z), (zero, e), (z, zero)):
        torch.testing.assert_close(
            jacobian(lambda v, b=b: codebooks.Rotation()(v, b), a), straight
        )
    torch.testing.assert_close(jacobian(lambda v: codebooks.StraightThrough()(v, e), z), straight)


class Outputs(torch.nn.Module):
    """An encoder whose outputs are the parameters themselves."""

    def __init__(self, z_e):
        super().__init__()
        self.z_e = torch.nn.Parameter(z_e.clone())

    def forward(self, x):
        return self.z_e[: len(x)]


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_the_rotation_is_what_the_encoder_is_given(engine):
    vqvae, _ = pair(MovingAverage(6, 3, initializer=None))
    vqvae.codebook.weight.copy_(torch.randn(6, 3))
    x, z_e = torch.randint(2, (3, 1, 8, 8)).float(), torch.randn(3, 2, 2, 3)
    estimator, found = infer.TraceELBO(), []
    for gradient in (codebooks.Rotation(), codebooks.StraightThrough()):
        encoder = Outputs(z_e)
        guide = guides.NearestCode(vqvae, commitment=0.0, gradient=gradient, encoder=encoder)
        run = infer.Graph(estimator) if engine == "graph" else estimator
        run(vqvae.eval(), guide, x)[0].backward()
        found.append(encoder.z_e.grad)
    e = vqvae.codebook.vectors(vqvae.codebook.nearest(z_e))
    for z, v, turned, given in zip(*(t.reshape(-1, 3) for t in (z_e, e, *found)), strict=True):
        expected = jacobian(lambda a, v=v: codebooks.Rotation()(a, v), z).T @ given
        torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FiniteScalar((3, 1)), ValueError, "levels: expected whole numbers of at least 2"),
        (lambda: FiniteScalar(()), ValueError, "levels: expected whole numbers of at least 2"),
        (lambda: FiniteScalar((2.5,)), ValueError, "levels: expected whole numbers of at least 2"),
        (lambda: FiniteScalar((8,) * 6), ValueError, "levels: expected at most 65536 codes"),
        (lambda: LookupFree(0), ValueError, "bits: expected a whole number of at least 1, got 0"),
        (lambda: LookupFree(17), ValueError, "bits: expected at most 65536 codes"),
        (lambda: LookupFree(2, entropy=-1), ValueError, "entropy: expected a finite number >= 0"),
        (lambda: LookupFree(2, temperature=0), ValueError, "temperature: expected a positive"),
        (lambda: Residual(0), ValueError, "n: expected a whole number of at least 1, got 0"),
        (lambda: Residual(2, LookupFree(3)), TypeError, "book: expected a codebook of learnt"),
        (lambda: Residual(2, Residual(2)), TypeError, "book: expected a codebook of learnt"),
        (lambda: Residual(2, MovingAverage), TypeError, "book: expected a codebook of learnt"),
    ],
)
def test_what_no_quantiser_is(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_sizes_that_do_not_fit_a_model():
    options = {"likelihood": likelihoods.Gaussian(), "hidden": (4,), "grid": 2}
    with pytest.raises(ValueError, match="code_dim: expected the codebook's 3, got 4"):
        models.VQVAE((5,), code_dim=4, codebook=FiniteScalar((3, 3, 3)), **options)
    vqvae = models.VQVAE((5,), codebook=FiniteScalar((3, 3, 3)), **options)
    with pytest.raises(ValueError, match=r"encoder: expected outputs \(n, 2, 3\)"):
        guides.NearestCode(vqvae, encoder=torch.nn.Linear(5, 4))
    with pytest.raises(TypeError, match="gradient: expected an object such as"):
        guides.NearestCode(vqvae, gradient=codebooks.Rotation)
