"""Matrices on their way: as floats, or packed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..codec import Codec, Dense, Signs
from ..host import certain, constant
from ..packing import WORD, words_for
from ..scratch import own


class Matrices:
    """Messages of R matrices, (R, m, n), in the form in which they were made; the other is made when it is asked for.

    ``silent`` (R,) tells which are zero throughout, where the fields cannot say it.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        dense: Tensor | None = None,
        fields: Sequence[Tensor] | None = None,
        silent: Tensor | None = None,
    ) -> None:
        if (dense is None) == (fields is None or silent is None):
            raise ValueError("give either the floats, or the fields and who is silent")
        self.codec = codec
        self._dense, self._fields, self._silent = dense, fields, silent

    @classmethod
    def of(cls, x: Tensor) -> Matrices:
        """Floats (R, m, n)."""
        return cls(Dense(x.shape[-2], x.shape[-1], x.dtype), dense=x)

    @property
    def packed(self) -> bool:
        """Whether the fields are there."""
        return self._fields is not None

    def __len__(self) -> int:
        """R."""
        return len(self._dense if self._dense is not None else self.fields[0])

    @property
    def dense(self) -> Tensor:
        """(R, m, n), 0 in the silent ones."""
        if self._dense is None:
            m, n = self.codec.m, self.codec.n
            x = self.codec.unpack(self.fields, 0, m * n).view(-1, m, n)
            spoken = ~self.silent
            self._dense = x if certain(spoken) else torch.where(spoken.to(x.device)[:, None, None], x, 0)
        return self._dense

    @property
    def fields(self) -> Sequence[Tensor]:
        """The codec's, (R, columns) each."""
        if self._fields is None:
            self._fields = self.codec.pack(self.dense.flatten(-2))
        return self._fields

    @property
    def silent(self) -> Tensor:
        """(R,)."""
        if self._silent is None:
            self._silent = self.codec.silent(self.dense.flatten(-2))
        return self._silent

    @property
    def words(self) -> Tensor | None:
        """Every matrix's signs, (R, W), where the fields are nothing else and the host knows that none is silent."""
        if self._fields is None or type(self.codec) is not Signs or not certain(~self.silent):
            return None
        return self._fields[0]

    def pieces(self, together: int, entries: int) -> Iterator[tuple[int, int, Tensor]]:
        """All of it in order, by ``together`` matrices: (which of those, its first entry, the floats (e,) from there).

        What is packed is unpacked so many entries (a multiple of 64) at a time, into memory that the next piece has
        too: what stays in the cache is read there.
        """
        length = self.codec.m * self.codec.n
        if self._dense is not None or not certain(~self.silent):
            yield from ((place, 0, x) for place, x in enumerate(self.dense.reshape(-1, together * length)))
            return
        out = own("matrices.piece", (words_for(min(entries, length)) * WORD,), self.codec.dtype, self.silent.device)
        for row in range(len(self)):
            parts = [(field, whole[row : row + 1]) for field, whole in zip(self.codec.fields, self.fields, strict=True)]
            place, before = divmod(row, together)
            for start in range(0, length, entries):
                stop = min(start + entries, length)
                columns = [x[:, field.part(start, stop)] for field, x in parts]
                yield place, before * length + start, self.codec.unpack_again(columns, start, stop, out)[0]

    def rows(self, rows: Sequence[int]) -> Matrices:
        """These, ascending; itself where they are all."""
        if len(rows) == len(self):
            return self

        def chosen(x: Tensor) -> Tensor:
            return x.index_select(0, constant(rows, x.device))

        if not self.packed:
            return Matrices(self.codec, dense=chosen(self.dense))
        return Matrices(self.codec, fields=[chosen(field) for field in self.fields], silent=chosen(self.silent))

    def among(self, rows: Sequence[int], count: int) -> Matrices:
        """These are ``rows`` of so many, of which the others are zero."""
        if len(rows) == count:
            return self

        def spread(x: Tensor, fill: int = 0) -> Tensor:
            return x.new_full((count, *x.shape[1:]), fill).index_copy_(0, constant(rows, x.device), x)

        if not self.packed:
            return Matrices(self.codec, dense=spread(self.dense))
        return Matrices(self.codec, fields=[spread(field) for field in self.fields], silent=spread(self.silent, 1))

    @classmethod
    def joined(cls, codec: Codec, parts: Iterable[tuple[Sequence[int], Matrices]], count: int) -> Matrices:
        """So many, of which every part gives some rows, the others zero. At least one part.

        What is not all of it is packed as it comes, so that floats are there of one part at a time, unless the codec
        knows nothing better.
        """
        fields: list[Tensor] = []
        silent = torch.ones(0)
        for rows, part in parts:
            if len(rows) == count:
                return part
            at = constant(rows, part.silent.device)
            if not fields:
                fields = [field.new_zeros(count, *field.shape[1:]) for field in part.fields]
                silent = part.silent.new_ones(count)
            for whole, field in zip([*fields, silent], [*part.fields, part.silent], strict=True):
                whole.index_copy_(0, at, field)
        if isinstance(codec, Dense):
            return cls(codec, dense=fields[0].view(-1, codec.m, codec.n))
        return cls(codec, fields=fields, silent=silent)


__all__ = ["Matrices"]
