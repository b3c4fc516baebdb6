"""Where Ray Train workers of several machines meet: at the addresses by which Ray knows their nodes.

By itself gloo takes the address that a machine's own name stands for. On Debian and in many images that is 127.0.1.1
or 127.0.0.1, at which the others find only themselves.
"""

import os
import socket

import psutil
import ray.util
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Names of network interfaces; what the user has set in a node's environment stands."""


class Rendezvous(TorchConfig):
    """As `TorchConfig`, for nodes whose names do not lead to them too."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Ray Train sets the workers up with."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            worker_group.execute(_take_interface)
        super().on_start(worker_group, backend_config)


def _take_interface() -> None:
    if name := interface_of(ray.util.get_node_ip_address()):
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str:
    """The network interface of this machine that has an IP address; "" where none has."""
    families = (socket.AF_INET, socket.AF_INET6)
    for name, found in psutil.net_if_addrs().items():
        if any(one.family in families and one.address.partition("%")[0] == address for one in found):
            return name
    return ""
