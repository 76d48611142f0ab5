"""Rules (frozen hyper-parameters that validate themselves) and the registries that find them by name."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from threading import RLock
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass
from pydantic_core import core_schema

from .errors import Advice, Fault, RegistryError, SpecError, a_or_an

Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), AfterValidator(lambda v: v + 0.0)]  # no -0.0
Fraction = Annotated[float, Strict(), Field(ge=0, lt=1)]
Share = Annotated[float, Strict(), Field(gt=0, le=1)]
Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]


class Inside(ValueError):
    """A validation error in a nested rule, kept whole so that its place survives."""

    def __init__(self, model: type[BaseModel], error: ValidationError, label: str = "") -> None:
        self.model, self.error, self.label = model, error, label
        super().__init__(str(error))


def plain(value: Any, *, resolved: bool = True) -> Any:
    """A model as mappings and lists. ``resolved`` writes every default out; else only what was given is kept.

    >>> from signa.stages import Momentum
    >>> plain(Momentum(beta=0.9)), plain(Momentum(beta=0.9), resolved=False)
    ({'kind': 'momentum', 'beta': 0.9, 'nu': 1.0, 'heavy_ball': False}, {'kind': 'momentum', 'beta': 0.9})
    """
    if isinstance(value, BaseModel):
        return {
            name: plain(item, resolved=resolved)
            for name, item in value
            if resolved or name == "kind" or name in value.model_fields_set or _is_structure(item)
        }
    if isinstance(value, Mapping):
        return {key: plain(item, resolved=resolved) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item, resolved=resolved) for item in value]
    return value


def _is_structure(value: Any) -> bool:
    return isinstance(value, BaseModel) or (isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value))


class _Refusing(ModelMetaclass):
    """Makes ``Method(wroker=...)`` in Python fail as a spec file does, with what was probably meant."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        from .ordinary import ordinary  # both read rules
        from .reading import refused

        fields, problems = ordinary(fields)
        if problems:
            raise SpecError(problems)
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise refused(error, cls, fields) from None  # type: ignore[arg-type]


class Frozen(BaseModel, metaclass=_Refusing):
    """A frozen model that rejects unknown keys and never skips validation.

    Raises:
        SpecError: whatever is wrong with the fields, all at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True)

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """(name, value) of the fields alone: what a cached_property leaves behind is no part of a spec."""
        for name in type(self).model_fields:
            yield name, getattr(self, name)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Any:
        """Like pydantic's, but what is updated is validated."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self).model_validate(plain(self, resolved=False) | dict(update))

    def __getstate__(self) -> dict[Any, Any]:
        """For pickle: the fields, without what was derived from them (a Norm's formula is a function)."""
        state = super().__getstate__()
        fields = type(self).model_fields
        return {**state, "__dict__": {name: value for name, value in state["__dict__"].items() if name in fields}}


class Rule(Frozen):
    """A named component: hyper-parameters only, never a tensor. The spec *is* the object.

    A subclass gives ``kind`` its name (``kind: Literal["mine"] = "mine"``) and is put into a registry by
    ``@registry.register``.
    """

    kind: str

    def __str__(self) -> str:
        """The kind, with the fields that differ from their defaults."""
        bare = type(self)(
            **{name: getattr(self, name) for name, f in type(self).model_fields.items() if f.is_required()}
        )
        own = [f"{name}={value!s}" for name, value in self if name != "kind" and value != getattr(bare, name)]
        return f"{self.kind}({', '.join(own)})" if own else self.kind


R = TypeVar("R", bound=Rule)
C = TypeVar("C", bound=type[Rule])


def closest(name: str, names: list[str]) -> str:
    """``did you mean 'x'?``, or the list of what there is.

    >>> closest("sgin", ["sign", "scaled_sign"])
    "did you mean 'sign'?"
    """
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(names))}"


_RESERVED = ("worker", "up", "aggregate", "server", "down", "replica")


class Registry(Generic[R]):
    """Components of one sort, by name. As pydantic metadata it turns a name, a mapping or an object into a rule.

    ``x: Annotated[Compressor, compressors]`` accepts ``"sign"``, ``{"kind": "sign", ...}``, ``{"sign": {...}}`` and a
    ``Compressor``. Names are looked up when a spec is validated, so components registered later, and those that an
    installed package announces under the entry-point group ``signa``, are found.
    """

    def __init__(self, what: str, base: type[R], *, within: Registry[Any] | None = None) -> None:
        self.what, self.base, self._within = what, base, within
        self._classes: dict[str, type[R]] = {}

    def register(self, cls: C) -> C:
        """Add a class under its ``kind``; use as a decorator.

        Raises:
            RegistryError: the class is no rule of this sort, or the name is taken by another class.
        """
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise RegistryError(f"{cls!r} is not {a_or_an(self.base.__name__)}: derive from it")
        kind = cls.model_fields["kind"].default
        if not isinstance(kind, str) or not kind.isidentifier():
            raise RegistryError(f'{cls.__name__} has no name: give it a field kind: Literal["name"] = "name"')
        if kind in _RESERVED:
            raise RegistryError(f"{self.what} '{kind}' cannot have that name: it is a part of every address")
        for registry in self._lineage():
            taken = registry._classes.get(kind, cls)
            # The same class again is a module that was reloaded or a notebook's cell that ran twice.
            if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise RegistryError(f"{self.what} '{kind}' is registered already, by {taken!r}")
        for registry in self._lineage():
            registry._classes[kind] = cls
        return cls  # type: ignore[return-value]

    def unregister(self, name: str) -> None:
        """Take a name out again (for notebooks and tests)."""
        for registry in self._lineage():
            registry._classes.pop(name, None)

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._classes)

    def get(self, name: str) -> type[R]:
        """The class behind a name.

        Raises:
            RegistryError: nobody registered it; the message says what is near.
        """
        if name not in self._classes:
            _load_entry_points()
        if name not in self._classes:
            raise RegistryError(f"unknown {self.what} '{name}': {closest(name, self.names())}")
        return self._classes[name]

    def parse(self, value: Any) -> R:
        """A rule from a name, a mapping or a rule.

        Raises:
            Fault, Inside: see their messages; a reader of specs turns both into a :class:`~signa.errors.SpecError`.
        """
        if isinstance(value, self.base):
            return value
        if isinstance(value, Rule):
            raise Fault(f"'{value.kind}' is not {a_or_an(self.what)}", instead=f"use one of {', '.join(self.names())}")
        name, fields = self._name_and_fields(value)
        try:
            cls = self.get(name)
        except RegistryError:
            what = f"unknown {self.what} '{name}'"
            remedy = self._near(name) or "write one of these, or pass --plugin FILE, the file that registers it"
            raise Fault(what, because=f"known: {', '.join(self.names())}", instead=remedy) from None
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise Inside(cls, error, name) from error

    def _near(self, name: str) -> str:
        near = closest(name, self.names())
        return near if near.startswith("did") else ""

    def _name_and_fields(self, value: Any) -> tuple[str, dict[str, Any]]:
        if isinstance(value, str):
            return value, {}
        if isinstance(value, Mapping):
            if isinstance(value.get("kind"), str):
                return value["kind"], {k: v for k, v in value.items() if k != "kind"}
            if len(value) == 1:
                ((name, fields),) = value.items()
                if isinstance(name, str) and (fields is None or isinstance(fields, Mapping)):
                    return name, dict(fields or {})
        raise Fault(
            f"expected {a_or_an(self.what)}, got {value!r}",
            instead=f"write a name such as '{self.names()[0]}', or a mapping such as {{kind: {self.names()[0]}, ...}}",
        )

    def _lineage(self) -> Iterator[Registry[Any]]:
        yield self
        if self._within is not None:
            yield from self._within._lineage()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Validation is :meth:`parse`, serialisation :func:`plain`."""
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(plain)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Lists what is registered at the time of asking."""
        rules = [handler(self._classes[name].__pydantic_core_schema__) for name in self.names()]
        short = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {name: {"type": ["object", "null"]} for name in self.names()},
            "additionalProperties": False,
        }
        return {"anyOf": [{"enum": self.names()}, short, *rules]}


_entry_points_lock, _entry_points_loaded = RLock(), False


def _load_entry_points() -> None:
    """Import what installed packages announce under the group ``signa``, once per process. One that fails is named."""
    global _entry_points_loaded
    with _entry_points_lock:
        if _entry_points_loaded:
            return
        _entry_points_loaded = True  # what is being loaded may look names up itself
        for entry in entry_points(group="signa"):
            try:
                entry.load()
            except Exception as error:
                what = f"the installed plug-in '{entry.name}' ({entry.value}) failed: {type(error).__name__}: {error}"
                warnings.warn(Advice(what), stacklevel=2)
