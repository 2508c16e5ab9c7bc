from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.errors import InputError  # noqa: E402
from mmrag.train.objectives.wise import interpolate  # noqa: E402

START = {"w": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
END = {"w": torch.tensor([4.0, 4.0]), "count": torch.tensor(9), "fresh": torch.tensor([7.0])}


@pytest.mark.parametrize(("share", "weights"), [(0, [0, 2]), (0.25, [1, 2.5]), (1, [4, 4])])
def test_part_of_the_way(share, weights):
    found = interpolate(START, END, share=share)
    assert found["w"].tolist() == weights
    assert found["count"] == 9
    assert found["fresh"].tolist() == [7]


def test_a_network_computes_in_between():
    """Of linear networks, what is in between says what is in between."""
    start, end, between = (torch.nn.Linear(3, 2) for _ in range(3))
    between.load_state_dict(interpolate(start.state_dict(), end.state_dict(), share=0.3))
    x = torch.randn(4, 3)
    torch.testing.assert_close(between(x), 0.7 * start(x) + 0.3 * end(x))


@pytest.mark.parametrize(
    ("end", "share", "message"),
    [(END, 1.5, "from 0"), ({}, 0.5, "missing"), ({**END, "w": torch.zeros(3)}, 0.5, r"\(3,\)")],
)
def test_what_does_not_fit_is_refused(end, share, message):
    with pytest.raises(InputError, match=message):
        interpolate(START, end, share=share)
