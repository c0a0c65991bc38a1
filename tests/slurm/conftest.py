"""The cluster that all tests of Slurm share."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of eight CPUs and two GPUs that do not exist."""
    with Cluster(nodes=2) as running:
        yield running
