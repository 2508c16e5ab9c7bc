from __future__ import annotations

from collections import deque

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from mmrag.train.objectives.momentum import Queue, follow, twin_of  # noqa: E402


def test_a_twin_follows_by_what_does_not_stay():
    network = torch.nn.BatchNorm1d(2)
    twin = twin_of(network)
    torch.nn.init.constant_(network.weight, 3.0)  # the twin's are 1
    network.running_mean += 5
    follow(twin, network, momentum=0.75)
    assert twin.weight.tolist() == [1.5, 1.5]
    assert twin.running_mean.tolist() == [5, 5]
    follow(twin, network, momentum=1.0)
    assert twin.weight.tolist() == [1.5, 1.5]
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert not twin.training


def pairs(numbers):
    rows = torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, 2)
    return rows, rows + 0.5, torch.tensor(numbers)


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_the_oldest_make_room(size):
    """Against a deque: batches of sizes that the queue's is no multiple of, one larger than the queue."""
    queue, slow, number = Queue(size, 2), deque(maxlen=size), 0
    for count in (2, 3, 1, 9, 2):
        batch = list(range(number, number + count))
        number += count
        queue.push(*pairs(batch))
        slow.extend(batch)
        assert len(queue) == len(slow)
        assert sorted(queue.groups.tolist()) == sorted(slow)
        assert torch.equal(queue.image_vectors[:, 0], queue.groups.float())
        assert torch.equal(queue.text_vectors[:, 1], queue.groups + 0.5)


def test_an_empty_queue_has_no_negatives_and_a_queue_of_none_stays_so():
    queue = Queue(0, 2)
    queue.push(*pairs([1, 2]))
    assert len(queue) == 0
    assert Queue(3, 2).image_vectors.shape == (0, 2)


def test_a_checkpoint_keeps_it():
    queue, again = Queue(3, 2), Queue(3, 2)
    queue.push(*pairs([4, 5, 6, 7]))
    again.load_state_dict(queue.state_dict())
    for one in (queue, again):
        one.push(*pairs([8]))
    assert again.groups.tolist() == queue.groups.tolist() == [7, 8, 6]
