"""An index on disk: built once for the same texts, whole or not at all, and never a wrong one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts import columns as c
from contracts.errors import CorruptError, NotFoundError
from models.artifacts import load_json, save_json
from models.data import catalogue_from_arrow
from models.search.engine import SearchConfig, SearchIndex
from models.search.filters import Filters, ItemFacts
from models.search.stored import SEED, load_index, store_index
from tests.models.search_shop import SYNONYMS, catalogue


def items(**changed: pa.Array) -> pa.Table:
    rows = catalogue()
    table = pa.table({
        c.ITEM_ID: rows.item_ids,
        c.TITLE: rows.titles,
        c.DESCRIPTION: rows.descriptions,
        c.CATEGORY: rows.categories,
        c.BRAND: rows.brands,
        c.TAGS: rows.tags,
        c.PRICE: rows.prices,
    }).sort_by(c.ITEM_ID)
    for name, values in changed.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return table


def facts(table: pa.Table) -> ItemFacts:
    return ItemFacts(catalogue_from_arrow(table))


def files(folder: Path) -> dict[str, int]:
    """Return the inode of every file."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_ino
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_stored_index_answers_as_one_that_is_built(tmp_path: Path) -> None:
    table, config = items(), SearchConfig(synonyms=SYNONYMS, dense_weight=0.1)
    assert store_index(table, tmp_path / "new" / "search")
    loaded = load_index(tmp_path / "new" / "search", config, facts(table))
    built = SearchIndex.build(catalogue_from_arrow(table), config, SEED)
    for query in ("wireless mouse", "keybord", "耳机", "zzz", "laptop sleeve"):
        one, other = loaded.search(query, 5), built.search(query, 5)
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.scores, other.scores)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"search"}  # nothing is left


def test_equal_texts_are_not_indexed_again(tmp_path: Path) -> None:
    first, second = tmp_path / "1" / "search", tmp_path / "2" / "search"
    table = items()
    assert store_index(table, first)
    assert not store_index(table, first)
    dearer = items(price=pa.array(np.full(table.num_rows, 5.0, np.float32)))
    chunks = pa.concat_tables([dearer.slice(0, 4), dearer.slice(4)])
    assert not store_index(chunks, second, before=first)
    assert files(first) == files(second)  # links
    loaded = load_index(second, SearchConfig(), facts(dearer))
    assert len(loaded.search("mouse", 9, Filters(price_max=5)).items) == len(
        loaded.search("mouse", 9).items
    )


@pytest.mark.parametrize("name", [c.TITLE, c.DESCRIPTION, c.CATEGORY, c.BRAND, c.TAGS, c.ITEM_ID])
def test_another_text_is_indexed_anew(tmp_path: Path, name: str) -> None:
    table = items()
    store_index(table, tmp_path / "1")
    values = table[name].to_pylist()
    values[3] = ["a new text"] if name == c.TAGS else "a new text"
    assert store_index(items(**{name: pa.array(values)}), tmp_path / "2", before=tmp_path / "1")


def test_a_damaged_index_is_neither_loaded_nor_taken_over(tmp_path: Path) -> None:
    table, folder = items(), tmp_path / "1"
    store_index(table, folder)
    damaged = folder / "dense" / "words.vectors.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    with pytest.raises(CorruptError, match=r"words\.vectors"):
        load_index(folder, SearchConfig(), facts(table))
    assert store_index(table, tmp_path / "2", before=folder)
    assert store_index(table, folder)
    load_index(folder, SearchConfig(), facts(table))
    with pytest.raises(CorruptError, match="13 items for a catalogue of 12"):
        load_index(folder, SearchConfig(), facts(table.slice(1)))


def test_an_index_of_another_format_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_index(tmp_path, SearchConfig(), facts(items()))
    store_index(items(), tmp_path / "1")
    manifest = load_json(tmp_path / "1", "manifest")
    manifest["recipe"]["format"] = 0
    save_json(tmp_path / "1", "manifest", manifest)
    with pytest.raises(NotFoundError, match="another version"):
        load_index(tmp_path / "1", SearchConfig(), facts(items()))


def test_a_build_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "search"
    store_index(items(), folder)
    before = files(folder)

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SearchIndex, "save", fails)
    with pytest.raises(MemoryError):
        store_index(items(title=pa.array(["other"] * len(catalogue()))), folder)
    assert files(folder) == before and {path.name for path in tmp_path.iterdir()} == {"search"}


def test_where_the_disk_has_no_links_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    store_index(items(), tmp_path / "1")
    monkeypatch.setattr("os.link", no_links)
    assert not store_index(items(), tmp_path / "2", before=tmp_path / "1")
    one, two = files(tmp_path / "1"), files(tmp_path / "2")
    assert set(one) == set(two) and not set(one.values()) & set(two.values())
    load_index(tmp_path / "2", SearchConfig(), facts(items()))


def test_an_empty_catalogue_has_an_index_too(tmp_path: Path) -> None:
    none = items().slice(0, 0)
    store_index(none, tmp_path / "1")
    assert load_index(tmp_path / "1", SearchConfig(), facts(none)).search("tea", 3).total == 0
