"""physnet as it is installed, away from its checkout: package_use.py CHECKOUT.

Imports every public module and runs the README's snippets, with the standard library alone.
"""

import doctest
import importlib
import importlib.metadata
import pkgutil
import sys
import tomllib
from pathlib import Path

import physnet


def main() -> None:
    checkout = Path(sys.argv[1])
    origin = Path(physnet.__file__)
    if not origin.is_relative_to(sys.prefix) or origin.is_relative_to(checkout):
        raise SystemExit(f"physnet comes from {origin}, not from the installed wheel")
    version = importlib.metadata.version("physnet")
    if physnet.__version__ != version:
        raise SystemExit(f"physnet.__version__ is {physnet.__version__}, the metadata's {version}")
    walk = pkgutil.walk_packages(physnet.__path__, "physnet.")
    public = [module.name for module in walk if "._" not in module.name]
    for name in public:
        importlib.import_module(name)
    if unwanted := {"pytest", "matplotlib", "torch"} & set(sys.modules):
        raise SystemExit(f"the public modules import {sorted(unwanted)}")

    settings = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    flags = 0
    for name in settings["ini_options"]["doctest_optionflags"]:
        flags |= doctest.OPTIONFLAGS_BY_NAME[name]
    failed, tried = doctest.testfile(
        str(checkout / "README.md"), module_relative=False, optionflags=flags, encoding="utf-8"
    )
    if failed or not tried:
        raise SystemExit(f"README.md: {failed} of {tried} examples failed")
    print(f"physnet {version}: {len(public)} public modules, {tried} lines of README.md")


if __name__ == "__main__":
    main()
