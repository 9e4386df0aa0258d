"""What tests of deploy/ share: where it is, and the real reading of a command line of the server."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from raftsched.cli import goflags
from raftsched.config import ServeConfig, load
from raftsched.config.flags import FLAGS, Value
from raftsched.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
LATER = "is not supported by this version of raftsched"


def flags_of(words: Sequence[str]) -> dict[str, Value]:
    """What the words give, by flag; each of them is a flag or the value of one."""
    ignored: list[str] = []
    given = goflags.parse(words, FLAGS, {}, ignored)
    assert ignored == [], "a switch takes its value behind `=`"
    return given


def config_of(words: Sequence[str], environ: Mapping[str, str]) -> ServeConfig:
    """As `raftsched-scheduler` reads them: flags, environment, every check."""
    return load(flags_of(words), environ)


def later(*words: str) -> pytest.MarkDecorator:
    """Marks a test of options that a version may refuse as a whole: where it does so it must fail so, where not it must pass."""
    try:
        load(flags_of(words), {})
    except ConfigError as error:
        refused = LATER in str(error)
    else:
        refused = False
    return pytest.mark.xfail(refused, reason=f"{' '.join(words)} {LATER}", raises=ConfigError, strict=True)


def tools() -> ModuleType:
    """scripts/tools.py, which knows where real programs are."""
    name = "scripts_tools"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / "tools.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def tool(name: str) -> Path:
    """The path of a built tool; skips by its name where it is not here."""
    found: Path | None = getattr(tools(), name)()
    if found is None:
        pytest.skip(f"{name} is not here: make deploy builds it (needs Go)")
    return found
