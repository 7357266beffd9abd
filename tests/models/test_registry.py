"""Retrievers by name, imported on demand."""

import subprocess
import sys

import pytest

from contracts.errors import SettingsError
from models.registry import DEFAULT_RETRIEVERS, RETRIEVERS, make_retriever


def test_every_name_is_its_class_and_has_options() -> None:
    for name, cls in RETRIEVERS.items():
        assert cls.name == name
        assert make_retriever(name, {}).config == cls.config_class()


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(SettingsError, match=r"unknown retriever 'als'; known: \['attributes'"):
        make_retriever("als", {})
    assert "als" not in RETRIEVERS


def test_the_default_ones_exist_and_hold_no_rows_of_people() -> None:
    assert set(DEFAULT_RETRIEVERS) < set(RETRIEVERS)
    assert not any(RETRIEVERS[name].holds_rows_of_people for name in DEFAULT_RETRIEVERS)


def test_torch_is_imported_by_torch_models_alone() -> None:
    code = (
        "import sys; from models.registry import make_retriever, RETRIEVERS; sorted(RETRIEVERS); "
        "deep = {'ials', 'item2vec', 'sasrec', 'bsarec', 'gru4rec', 'nextitnet', 'two_tower', "
        "'neumf'}; "
        "[make_retriever(name, {}) for name in RETRIEVERS if name not in deep]; "
        "assert 'torch' not in sys.modules; [make_retriever(name, {}) for name in deep]; "
        "assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
