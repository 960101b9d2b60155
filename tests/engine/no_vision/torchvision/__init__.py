"""A stand-in for torchvision, of which no CPU build is on the package index.

transformers' image processors import it by name, so vLLM cannot even inspect a multimodal class
without it. Text needs none of it: every attribute is an empty class. Used by one test, and only
where torchvision is missing.
"""

import importlib.abc
import importlib.machinery
import sys
import types

__version__ = "0.0.0"


class _Module(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a package, so that submodules are looked for

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})


class _Name(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith(f"{__name__}."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _Finder())
