"""Retrievers by name, imported on demand."""

import subprocess
import sys

import pytest

from contracts.errors import SettingsError
from models.registry import RETRIEVERS, make_retriever


def test_every_name_is_its_class_and_has_options() -> None:
    for name, cls in RETRIEVERS.items():
        assert cls.name == name
        assert make_retriever(name, {}).config == cls.config_class()


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r"unknown retriever 'als'; known: \['ease'"):
        make_retriever("als", {})
    assert "als" not in RETRIEVERS


def test_torch_is_imported_by_torch_models_alone() -> None:
    code = (
        "import sys; from models.registry import make_retriever, RETRIEVERS; sorted(RETRIEVERS); "
        "[make_retriever(name, {}) for name in RETRIEVERS if name != 'sasrec']; "
        "assert 'torch' not in sys.modules; make_retriever('sasrec', {}); "
        "assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
