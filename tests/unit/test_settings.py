"""Settings that do not go together are refused at the start, with the name of the variable."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

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
