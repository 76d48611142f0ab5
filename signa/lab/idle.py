"""A change that nothing would follow is refused, not made."""

from __future__ import annotations

from collections.abc import Iterable

from ..address import labels
from ..routing import Routing
from .refusal import refusal

__all__ = ["refuse_idle"]


def refuse_idle(routing: Routing, addresses: Iterable[str]) -> None:
    """Refuse changes of a group that got no parameter: the run would be the one without them.

    A preset stands for five groups, three of which most models leave empty, and whoever writes ``groups.1`` for the
    matrices of one has changed what no parameter follows.

    Raises:
        SpecError: naming the address, and the groups that have parameters.
    """
    names = labels(routing.spec.groups)
    filled = sorted({route.group for route in routing})
    for address in addresses:
        head, _, below = address.partition(".")
        word = below.split(".")[0]
        if head != "groups" or not (word.isdecimal() or word in names):
            continue
        number = int(word) if word.isdecimal() else names.index(word)
        if number not in filled:
            there = ", ".join(f"groups.{names[index]}" for index in filled)
            raise refusal(
                "it would change nothing",
                address=address,
                because=f"group '{names[number]}' has none of the model's parameters",
                instead=f"change {there}",
            )
