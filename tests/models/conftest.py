"""What tests of encoders share."""

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty cache, and no name that resolves."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
