"""A program's own arguments as data: rows, constants, tensors in their place."""

import pytest
import torch

from pyro_vae.data import Arguments
from pyro_vae.data.arguments import holding, tensors_of
from pyro_vae.data.identity import identity

X, LENGTHS, BETA = torch.arange(12.0).reshape(4, 3), torch.tensor([3, 1, 2, 2]), torch.tensor(0.5)


@pytest.fixture
def data():
    return Arguments((X, LENGTHS), {"beta": BETA, "flag": True, "weights": torch.ones(2)})


def test_columns_are_the_tensors_with_as_many_rows_as_the_first(data):
    assert data.columns == (0, 1)
    assert len(data) == 4
    assert Arguments((BETA, X), {"y": torch.zeros(4)}).columns == (1, "y")


def test_rows_are_taken_of_the_columns_alone(data):
    for rows in (slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, False, True])):
        part = data[rows]
        assert torch.equal(part[0], X[rows])
        assert torch.equal(part[1], LENGTHS[rows])
        assert part["beta"] is BETA
        assert part["flag"] is True
        assert len(part) == len(X[rows])


def test_batches_tell_of_how_many_they_are_a_part(data):
    batches = [x for x, y in data.batches(3) if y is None]
    assert [len(x) for x in batches] == [3, 1]
    assert [x.total for x in batches] == [4, 4]
    assert torch.equal(torch.cat([x[0] for x in batches]), X)
    order = torch.cat([x[1] for x, _ in data.batches(2, shuffle=True)])
    assert torch.equal(order.sort().values, LENGTHS.sort().values)


def test_parts_and_copies_are_those_of_torch(data):
    assert [len(part) for part in data.split(3)] == [3, 1]
    assert torch.equal(data.repeated(3)[0], X.repeat(3, 1))
    assert torch.equal(data.repeated(3)[1], LENGTHS.repeat(3))
    assert data.repeated(3)["beta"] is BETA


def test_all_its_tensors_can_be_put_in_their_place(data):
    tensors = tensors_of(data, None)
    assert [t.shape for t in tensors] == [X.shape, LENGTHS.shape, BETA.shape, (2,)]
    other, y = holding(data, None, [t + 1 for t in tensors])
    assert y is None
    assert torch.equal(other[0], X + 1)
    assert other["beta"] == 1.5
    assert other["flag"] is True
    assert torch.equal(data[0], X)


def test_only_floating_tensors_change_their_type(data):
    double = data.to("cpu", torch.float64)
    assert double.dtype == torch.float64
    assert double["beta"].dtype == torch.float64
    assert double[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"flag": True}, {"flag": 1}),
        ({"k": 1.0}, {"k": 1}),
        ({"k": (1, 2)}, {"k": [1, 2]}),
        ({"k": "a"}, {"k": "b"}),
        ({"y": torch.ones(4)}, {"y": torch.ones(4, 1)}),
        ({"y": torch.ones(4)}, {"y": torch.ones(4).long()}),
    ],
)
def test_the_key_tells_constants_and_layouts_apart(one, other):
    assert Arguments((X,), one).key == Arguments((X + 1,), one).key
    assert Arguments((X,), one).key != Arguments((X,), other).key


def test_what_cannot_be_told_from_others_has_no_key():
    assert Arguments((X,), {"k": {"a": 1}}).key is None


def test_another_value_is_another_identity(data):
    assert identity(data) == identity(Arguments(data.args, data.kwargs))
    changed = Arguments((X, LENGTHS), {**data.kwargs, "flag": False})
    assert identity(changed) != identity(data)
    changed = Arguments((X, LENGTHS.flip(0)), data.kwargs)
    assert identity(changed) != identity(data)


def test_columns_that_are_given_have_equally_many_rows():
    with pytest.raises(ValueError, match=r"data: .* got 4 of data\[0\], 2 of weights.*constant"):
        Arguments((X,), {"weights": torch.ones(2)}, (0, "weights"))
    with pytest.raises(TypeError, match=r"beta: expected a tensor with a row per datum.*constant"):
        Arguments((X,), {"beta": BETA}, (0, "beta"))
    with pytest.raises(ValueError, match="columns without rows"):
        Arguments((X[:0],))


def test_it_shows_shapes_and_constants(data):
    shown = "Arguments(4 x ((3,), ()), beta=(), flag=True, weights=(2,))"
    assert repr(data) == shown
    assert repr(Arguments((), {"k": 2})) == "Arguments(? x (), k=2)"
