"""The overlay and the trees over it, in simulated networks."""

from __future__ import annotations

from statistics import mean

import pytest
from gossip_world import World

from aspen.limits import GOSSIP_ACTIVE_PEERS, GOSSIP_ANNOUNCE_MS

SECOND = 1_000


def founded(size: int, seed: int = 1, loss: float = 0.0) -> World:
    world = World(seed, loss)
    for _ in range(size):
        world.add()
    return world


@pytest.mark.parametrize("size", [2, 3, 5, GOSSIP_ACTIVE_PEERS + 1])
def test_a_small_cluster_is_a_full_mesh(size: int) -> None:
    world = founded(size)
    world.run(20 * SECOND)
    assert all(len(node.core.overlay.neighbours) == size - 1 for node in world.alive)
    assert world.knowledge() == 1


def test_views_are_symmetric_and_bounded() -> None:
    world = founded(60)
    world.run(60 * SECOND)
    world.run(60 * SECOND)
    one_sided = 0
    for node in world.alive:
        neighbours = node.core.overlay.neighbours
        assert 1 <= len(neighbours) <= GOSSIP_ACTIVE_PEERS
        one_sided += sum(node.endpoint_id not in world.nodes[i].core.overlay.neighbours for i in neighbours)
    assert one_sided <= 3  # those just being told


def test_everyone_knows_everyone_with_loss_and_churn() -> None:
    world = founded(70, seed=2, loss=0.1)
    for _ in range(12):
        world.run(10 * SECOND)
        for _ in range(2):
            world.kill(world.rng.choice(world.alive))
            world.add()
    assert world.knowledge(settled_ms=60 * SECOND) == 1
    # Nobody is taken for alive long after its end.
    dead = {node.endpoint_id for node in world.nodes.values() if not node.alive}
    world.run(60 * SECOND)
    assert not any(node.knows & dead for node in world.alive)


def test_half_of_the_nodes_fail_at_once() -> None:
    world = founded(80, seed=3)
    world.run(30 * SECOND)
    for node in world.alive[::2]:
        world.kill(node)
    world.run(60 * SECOND)
    assert world.knowledge() == 1


def test_parted_halves_meet_again() -> None:
    world = founded(20, seed=4)
    world.run(30 * SECOND)
    everyone = world.alive
    for node in everyone:
        node.contacts = [other.peer for other in everyone]  # the members, as each node knows them
    left, right = everyone[:10], everyone[10:]
    world.cut = {(a.endpoint_id, b.endpoint_id) for a in left for b in right}
    world.cut |= {(b, a) for a, b in world.cut}
    world.run(180 * SECOND)
    assert all(len(node.knows) == 9 for node in everyone)
    world.cut = set()
    world.run(60 * SECOND)
    assert world.knowledge() == 1


def test_a_node_sends_about_one_copy_of_each_announcement() -> None:
    world = founded(60, seed=5)
    world.run(60 * SECOND)
    for node in world.alive:
        node.sent.clear()
    world.run(60 * SECOND)
    announcements = 60 * 60 * SECOND / GOSSIP_ANNOUNCE_MS
    copies = mean(node.sent["Gossip"] for node in world.alive) / announcements
    assert 0.9 < copies < 1.7
    control = mean(sum(node.sent.values()) - node.sent["Gossip"] for node in world.alive) / 60
    assert control < 20


def test_a_node_that_moves_is_found() -> None:
    world = founded(10, seed=6)
    world.run(30 * SECOND)
    mover = world.alive[0]
    mover.peer = type(mover.peer)(mover.endpoint_id, (("192.0.2.9", 9_999),))
    mover.core.announce_soon()
    world.run(15 * SECOND)
    for node in world.alive[1:]:
        assert node.core.known[mover.endpoint_id][0].addresses == (("192.0.2.9", 9_999),)


def test_the_same_seed_is_the_same_story() -> None:
    def story() -> list[dict[str, int]]:
        world = founded(30, seed=7, loss=0.1)
        world.run(30 * SECOND)
        return [dict(node.sent) for node in world.alive]

    assert story() == story()
