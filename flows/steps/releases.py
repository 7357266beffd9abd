"""What a release is made of, what two of them differ in, which are kept, and which may go."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.errors import CorruptError
from contracts.settings import Settings

if TYPE_CHECKING:
    from services.registry import Releases

UPKEEP: Final = "upkeep"


def show_release(settings: Settings, version: str) -> dict[str, Any]:
    """Return all there is to say of a release, as JSON values.

    version, status, created, data_end, reason, code; `data`: Delta version and rows by table;
    feature_service, feature_version; `features`: what its ranker sees; serves, retrievers, recipe,
    config (the settings it was trained under), metrics, verdict; `moves`, `kept_because` and
    `pinned` from the audit log and retention; size, files, and `checksums`: "ok" or what is wrong.

    Raises:
        NotFoundError: there is no such release.
    """
    from models.artifacts import load_json
    from services.registry import Releases
    from services.retention import pins, reasons_to_keep

    releases = Releases(settings.registry)
    card, bundle = releases.card(version), releases.path(version)
    info = next(found for found in releases.list() if found.version == version)
    told = load_json(bundle, "config") if (bundle / "config.json").is_file() else {}
    files = [path for path in releases.folder(version).rglob("*") if path.is_file()]
    return {
        "version": version,
        "status": info.status,
        "created": card["created"],
        "data_end": card.get("data_end"),
        "reason": card.get("reason"),
        "code": card.get("code"),
        "data": {
            "versions": card.get("data_versions") or {},
            "rows": card.get("data_rows") or {},
        },
        "feature_service": card.get("feature_service"),
        "feature_version": told.get("feature_version"),
        "features": ranker_features(bundle, told.get("retrievers") or []),
        "serves": told.get("serves"),
        "retrievers": {
            name: (told.get("retriever_options") or {}).get(name, {})
            for name in told.get("retrievers") or []
        },
        "recipe": told.get("recipe") or {},
        "config": card.get("config") or {},
        "metrics": info.metrics,
        "verdict": info.verdict,
        "moves": [line for line in releases.moves() if str(line["version"]) == version],
        "kept_because": reasons_to_keep(releases, settings.upkeep.keep_releases)[version],
        "pinned": pins(releases).get(version),
        "size": sum(path.stat().st_size for path in files),
        "files": len(files),
        "checksums": _checksums(bundle),
    }


def ranker_features(bundle: Path, retrievers: list[str]) -> list[str]:
    """Return what the release's fusion sees of a candidate, in order; of a base model: nothing.

    A blend sees the retrievers' scores alone, under their names.
    """
    import json

    names: dict[str, None] = {}
    for path in sorted(bundle.glob("ranker/**/fusion.json")):
        told = json.loads(path.read_text())
        found = told.get("names") or [pair[0] for pair in told.get("weights") or []]
        names |= dict.fromkeys(str(name) for name in found)
    return [*names]


def _checksums(bundle: Path) -> str:
    from models.artifacts import verify_manifest

    try:
        verify_manifest(bundle)
    except CorruptError as error:
        return str(error)
    return "ok"


def compare_releases(settings: Settings, version: str, other: str) -> dict[str, Any]:
    """Return what changed from release `version` to release `other`, as JSON values.

    `config`, `recipe`, `retrievers` and `data` name only what differs, by dotted key, each as
    {"from", "to"} with None where there is nothing; `metrics` has every figure of either, numbers
    with their `difference`; `features` has those added and removed.

    Raises:
        NotFoundError: there is no such release.
    """
    before, after = show_release(settings, version), show_release(settings, other)
    sections = ("config", "recipe", "retrievers", "data")
    changed = {name: _changed(before[name], after[name]) for name in sections}
    single = ("serves", "code", "data_end", "feature_service", "feature_version", "reason")
    return {
        "from": version,
        "to": other,
        **{
            name: {"from": before[name], "to": after[name]}
            for name in single
            if before[name] != after[name]
        },
        **changed,
        "metrics": _figures(before["metrics"], after["metrics"]),
        "features": {
            "added": [name for name in after["features"] if name not in before["features"]],
            "removed": [name for name in before["features"] if name not in after["features"]],
        },
    }


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    old, new = _flat(before), _flat(after)
    return {
        name: {"from": old.get(name), "to": new.get(name)}
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    }


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested tables as one, by dotted key; an empty table is a value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    old, new = _flat(before), _flat(after)
    found: dict[str, Any] = {}
    for name in dict.fromkeys((*old, *new)):
        first, last = old.get(name), new.get(name)
        found[name] = {"from": first, "to": last}
        if isinstance(first, int | float) and isinstance(last, int | float):
            found[name]["difference"] = last - first
    return found


def drop_releases(settings: Settings, now: datetime, *, dry_run: bool) -> dict[str, Any]:
    """Delete releases, and feature services, that nothing keeps; return what went, and why the
    others stay.
    """
    from services.registry import Releases
    from services.retention import delete_releases, reasons_to_keep

    releases, keep = Releases(settings.registry), settings.upkeep.keep_releases
    gone = delete_releases(
        releases,
        keep,
        who=UPKEEP,
        why=f"older than the newest {keep}, and nothing else keeps it",
        now=now,
        dry_run=dry_run,
    )
    names = {found.version for found in gone}
    kept = {
        version: why
        for version, why in reasons_to_keep(releases, keep).items()
        if version not in names
    }
    return {
        "deleted": [vars(found) for found in gone],
        "kept": kept,
        "feature_services": _drop_services(settings, releases, [*kept], dry_run=dry_run),
    }


def _drop_services(
    settings: Settings, releases: "Releases", kept: list[str], *, dry_run: bool
) -> list[str]:
    """Delete the feature services that neither this code nor a kept release names."""
    if not (settings.features / "registry.db").is_file():
        return []
    from feature_repo.lookup import FeatureLookup
    from services.retention import feature_services

    named = feature_services(releases, kept)
    return FeatureLookup(settings.features).drop_services(keep=named, dry_run=dry_run)
