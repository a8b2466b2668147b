"""Modules that another library imports at its start but needs only for what is never asked of it here.

What belongs here: standing in for such modules while that library is imported, and loading the real one when it is
needed after all. What does not: which modules these are; whoever imports the library knows.

The KServe SDK imports pandas for data frames that no tensor server makes, and its client for the Kubernetes API with
the 90 classes of its objects. Together they are more than half of the CPU time of a pod's start.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextmanager
def deferring(*names: str) -> Iterator[None]:
    """Imports inside the block find stand-ins for these modules and for everything below them.

    A stand-in's attributes are classes, good for annotations, base-less `isinstance` and keeping. Called, each loads
    the real module and calls what has that name there. After the block the modules can be imported as ever; those
    that were imported before it stay what they are.

    Args:
        names: Modules, with the packages that they are in: `package.module`.
    """
    finder = _Finder(tuple(name for name in names if name not in sys.modules))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Deferred)]:
            del sys.modules[name]


class _Deferred(ModuleType):
    """The stand-in of a module."""

    def __getattr__(self, name: str) -> _StandIn:
        """A stand-in for whatever is imported from here; special names are those that a module may lack."""
        if name.startswith("__"):
            raise AttributeError(name)
        found = _StandIn(name, (), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _StandIn(type):
    """The type of the stand-ins of classes and functions."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the real one takes and gives
        """Call the real one."""
        return getattr(importlib.import_module(cls.__module__), cls.__name__)(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        """Whether it is an instance of the real class, of which there is none unless the real module was loaded."""
        real = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
        return isinstance(real, type) and isinstance(instance, real)


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for some modules and their submodules."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a stand-in, or None for all other modules."""
        wanted = any(fullname == name or fullname.startswith(f"{name}.") for name in self._names)
        return ModuleSpec(fullname, self, is_package=True) if wanted else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The stand-in."""
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""
