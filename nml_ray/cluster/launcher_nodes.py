"""What Ray's launcher knows of a cluster, as JSON on standard output; run as a process, for it imports Ray.

    python -m nml_ray.cluster.launcher_nodes DOCUMENT

    {"head": ADDRESS or null, "auth": {...}, "nodes": [{"id": ..., "kind": "head" or "worker", "address": ...,
                                                         "trouble": why there is no address, where that is known}]}

Nodes are those that run. Asking makes what `ray up` would make first (a pair of keys, a role, a security group), unless
it is there.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """What the provider says."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.sdk import bootstrap_config

    config = bootstrap_config(document)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    inside = bool(config["provider"].get("use_internal_ips"))
    nodes = []
    for node in provider.non_terminated_nodes({}):
        kind = "node"
        try:
            kind = provider.node_tags(node).get("ray-node-type", kind)
            address, trouble = (provider.internal_ip(node) if inside else provider.external_ip(node)), ""
        except Exception as error:  # each provider has its library's own
            if node not in provider.non_terminated_nodes({}):  # it has ended since
                continue
            address, trouble = None, f"{type(error).__name__}: {error}"
        nodes.append({"id": str(node), "kind": kind, "address": address, "trouble": trouble})
    running = set(map(str, provider.non_terminated_nodes({"ray-node-type": "head"})))
    head = next((one["address"] for one in nodes if one["id"] in running), None)
    return {"head": head, "auth": config["auth"], "nodes": nodes}


def main(path: str) -> None:
    """See the module's text."""
    with contextlib.redirect_stdout(sys.stderr):
        found = describe(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
