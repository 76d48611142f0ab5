"""The processes that write or read a checkpoint together. A Loopback is a world of one."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, SignaError, WireError
from ..transport import Group, Transport

Work = Callable[[], Any]
_REMEDY = {
    errno.ENOSPC: "free some space, or keep fewer checkpoints with keep=",
    errno.EDQUOT: "free some of the quota, or keep fewer checkpoints with keep=",
    errno.EROFS: "name a directory that can be written",
    errno.EACCES: "name a directory that this user may use",
    errno.EPERM: "name a directory that this user may use",
    errno.ENOTDIR: "name a directory, not a file",
}


class World:
    """Does one thing everywhere, and then everybody knows how it went for all.

    Args:
        transport: whose processes they are.
        call: the function that all of them are in.
        task: what cannot be done, for errors.

    Raises:
        CheckpointError: the transport's model is sharded.
    """

    def __init__(self, transport: Transport, call: str, task: str) -> None:
        self.transport, self.call, self.task = transport, call, task
        group = transport if isinstance(transport, Group) else None
        if group is not None and group.node is not None:
            raise CheckpointError(
                f"{call}: {task}: the model is sharded (Group(..., shard=...)), and these checkpoints hold whole ones: "
                "save {'model': model.state_dict(), 'optim': signa.checkpoints.DCPState(opt)} with "
                "torch.distributed.checkpoint"
            )
        self.ranks = group.ranks if group else None
        self.rank, self.size = (group.rank, group.size) if group else (0, 1)
        self.held = group.held if group else (transport.workers,)

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Inside, an error that the others do not know of (an interrupt, say) is told to them, so nobody waits."""
        try:
            yield
        except (CheckpointError, WireError):  # on every process
            raise
        except BaseException as error:
            self.transport.fail(error, step)
            raise

    def together(self, work: Work, what: str, *, slow: bool = False) -> list[Any]:
        """Everybody's result (plain data) of ``work``; ``slow`` work may take longer than the group's timeout.

        Raises:
            CheckpointError: it failed for somebody: the same text everywhere, with ranks and reasons.
        """
        cause: list[Exception] = []

        def attempt() -> str:
            try:
                return json.dumps({"value": work()})
            except Exception as error:
                cause.append(error)
                return json.dumps({"error": _reason(error)})

        outcomes = [json.loads(text) for text in self._told(attempt, f"{self.call}, {what}", slow)]
        failed: dict[str, list[int]] = {}
        for rank, outcome in enumerate(outcomes):
            if "error" in outcome:
                failed.setdefault(outcome["error"], []).append(rank)
        if failed:
            raise self.refusal(failed) from (cause[0] if cause else None)
        return [outcome["value"] for outcome in outcomes]

    def refusal(self, reasons: dict[str, list[int]]) -> CheckpointError:
        """The error that everybody raises, from reasons and the ranks that have them."""
        lines = [
            (f"rank {', '.join(map(str, ranks))}: " if self.size > 1 else "") + reason
            for reason, ranks in reasons.items()
        ]
        return CheckpointError(f"{self.task}: {'; '.join(lines)}")

    def _told(self, attempt: Callable[[], str], what: str, slow: bool) -> list[str]:
        if self.ranks is None:
            return [attempt()]
        return self.ranks.together(attempt, what) if slow else self.ranks.texts(attempt(), what)


def _reason(error: Exception) -> str:
    if isinstance(error, SignaError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        where = f" ({error.filename})" if error.filename else ""
        remedy = _REMEDY.get(error.errno, "")
        return f"{error.strerror}{where}" + (f": {remedy}" if remedy else "")
    return f"{type(error).__name__}: {error}"


__all__ = ["World"]
