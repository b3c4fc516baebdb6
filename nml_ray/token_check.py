"""Whether a cluster that runs takes this process's token, asked at once: Ray itself tries for 20 s, and then says only
that it failed to connect."""

import os

from nml_ray.config.errors import UserError

_ASKED = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # answers who may connect, and changes nothing
_SECONDS = 5


def refuse_token(address: str) -> None:
    """Ask the head of a cluster.

    Args:
        address: HOST:PORT of its head; others are not asked.

    Raises:
        UserError: it asks for a token that is not there, or refuses this one.
    """
    if "://" in address or ":" not in address:
        return
    import grpc  # type: ignore[import-untyped]  # of ray[default]

    sent = _sent()
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ASKED)(b"", timeout=_SECONDS, metadata=sent)
        except grpc.RpcError as error:  # of all but this Ray says more
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                return
        else:
            return
    found = "asks for a token, and none is at hand"
    if sent:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
        found = f"refuses the token of {'RAY_AUTH_TOKEN' if os.environ.get('RAY_AUTH_TOKEN') else named}"
    raise UserError(
        f"the Ray cluster at '{address}' {found}",
        expected="its token in RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH with the name of a file that holds it",
    )


def _sent() -> list[tuple[str, str]]:
    """What Ray itself would send."""
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError

    try:
        header = AuthenticationTokenLoader.instance().get_token_for_http_header()
    except AuthenticationError:  # it would, but has none
        return []
    return [(name.lower(), value) for name, value in header.items()]
