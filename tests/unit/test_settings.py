"""Settings that do not go together are refused at the start, with the name of the variable."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from engine.bootstrap_ray import fault_of_machines
from engine.domain.state import HOLD_LIFE_MAX_MS
from engine.settings import Settings


@pytest.mark.parametrize("host", ["node", "0.0.0.0", "10.0.0.1"])
@pytest.mark.parametrize("token", [None, SecretStr("")])
def test_shards_that_listen_beyond_this_machine_need_a_token(host: str, token: SecretStr | None) -> None:
    with pytest.raises(ValidationError, match="QM_CLUSTER_TOKEN"):
        Settings(tcp=True, shard_host=host, cluster_token=token)


def test_shards_that_do_not_need_none() -> None:
    assert Settings(tcp=True, shard_host="127.0.0.1").cluster_token is None
    assert Settings(tcp=False, shard_host="node").cluster_token is None
    assert Settings(tcp=True, shard_host="node", cluster_token=SecretStr("s")).shard_host == "node"


def test_a_cluster_on_which_shards_cannot_start_or_meet_is_refused() -> None:
    alone = Settings(ray_address="10.0.0.1:6380")
    apart = Settings(ray_address="10.0.0.1:6380", tcp=True, shard_host="node", cluster_token=SecretStr("s"))
    assert "shard_slot" in str(fault_of_machines(apart, 0))
    assert "QM_TCP" in str(fault_of_machines(alone, 2))
    assert "QM_TCP" in str(fault_of_machines(Settings(ray_address="10.0.0.1:6380", tcp=True), 2)), "on loopback only"
    assert fault_of_machines(alone, 1) is None
    assert fault_of_machines(apart, 2) is None


def test_a_hold_cannot_be_allowed_longer_than_it_can_live() -> None:
    limit_s = HOLD_LIFE_MAX_MS // 1_000
    assert Settings(hold_ttl_max_s=limit_s).hold_ttl_max_s == limit_s
    with pytest.raises(ValidationError, match="hold_ttl_max_s"):
        Settings(hold_ttl_max_s=limit_s + 1)
