"""Whether a call may be made: its API key against the group of its RPC."""

from __future__ import annotations

from hlserve.errors import PermissionDeniedError, UnauthenticatedError
from hlserve.serving.keys import ALL_GROUPS, ApiKeys
from hlserve.serving.transports.context import CallContext
from hlserve.serving.transports.stage import Stage

_BEARER = "bearer "
_HOW = "send it as the header 'authorization: Bearer KEY' or 'x-api-key: KEY'"


class Authorization(Stage):
    """A stage that asks for a key.

    Args:
        keys: those in force.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    def begin(self, context: CallContext) -> None:
        """Lets the call through.

        Raises:
            UnauthenticatedError: it brings no key, or an unknown one.
            PermissionDeniedError: its key is for other groups.
        """
        self._keys.refresh()
        group = context.rpc.group
        if self._keys.is_open(group):
            return
        key = _key(context)
        if not key:
            raise UnauthenticatedError(f"{context.rpc.path} needs an API key: {_HOW}")
        groups = self._keys.groups_of(key)
        if not groups:
            raise UnauthenticatedError(f"{context.rpc.path}: the API key is not known")
        if not groups & {group, ALL_GROUPS}:
            raise PermissionDeniedError(
                f"{context.rpc.path}: the API key is not for the group {group!r}"
            )


def _key(context: CallContext) -> str:
    authorization = context.metadata.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    return context.metadata.get("x-api-key", "")
