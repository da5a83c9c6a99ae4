"""A Ray cluster of two nodes on this machine: the same results, and what the death of a node costs."""

import _socket
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.engine.shards import attempts, chain, computed, killed, slow_on_node

ray = pytest.importorskip("ray", reason="ray is not installed (extra `cluster`)")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster(monkeypatch):
    """A head without cores, so that all work is on the two nodes that follow; small object stores."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    store = {"object_store_memory": 80 * 2**20}
    # A node counts as dead after a second of silence (Ray's own default is half a minute).
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": health, **store})
    found.nodes = [found.add_node(num_cpus=1, **store) for _ in range(2)]
    found.wait_for_nodes()
    guarded, own = socket.socket.connect, found.address.split(":")[0]

    def connect(self, address):
        """Ray's address is this machine's own, which the guard against the network does not know."""
        (_socket.socket.connect if address[0] == own else guarded)(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    yield found
    ray.shutdown()
    found.shutdown()


def test_the_death_of_a_worker_and_of_a_node_cost_their_shard_only(cluster, tmp_path):
    wanted, marks = computed(chain), tmp_path / "node"
    marks.mkdir()
    (tmp_path / "worker").mkdir()
    assert computed(killed, tmp_path / "worker", "b", engine="ray", address=cluster.address) == wanted
    assert attempts(tmp_path / "worker") == [1, 2, 1, 1]

    def kill_node():
        """Once two shards run, take away the node that runs one of them."""
        while len(list(marks.iterdir())) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.nodes[1], allow_graceful=False)

    killer = threading.Thread(target=kill_node)
    killer.start()
    gone = cluster.nodes[1].node_id
    assert computed(slow_on_node, marks, engine="ray", address=cluster.address, workers=2) == wanted
    killer.join()
    visits = [mark.read_text().split() for mark in marks.iterdir()]
    ((first, *_),) = (nodes for nodes in visits if len(nodes) > 1)
    assert first == gone
    assert all(nodes[-1] != gone for nodes in visits)
