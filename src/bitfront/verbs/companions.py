"""The files that lie beside an artifact: its manifest, and the reference it is verified against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfront.errors import DataError, UsageError, VerificationError
from bitfront.graph.files import SUFFIX
from bitfront.record import digest_file
from bitfront.registry import runtime_of
from bitfront.store import atomic_json

__all__ = ["Companions", "companions", "write_manifest"]

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Companions:
    """An artifact and what lies beside it."""

    artifact: Path
    manifest: dict[str, Any] | None
    """What was written when the artifact was made; ``None`` for files of others."""
    reference: Path | None

    def check_hash(self) -> None:
        """Raise VerificationError when the artifact is not the file that its manifest describes."""
        known = (self.manifest or {}).get("sha256") or (self.manifest or {}).get("artifact", {}).get("sha256")
        if known and digest_file(self.artifact) != known:
            raise VerificationError(
                f"{self.artifact} has changed since it was made: its SHA-256 is not the one of its manifest",
                hint="copy or export it again",
            )


def companions(place: Path) -> Companions:
    """Find an artifact, given as its file or the folder it lies in, and what lies beside it.

    Raises UsageError when there is no such file, DataError when the manifest is damaged.
    """
    artifact = place
    if place.is_dir():
        found = sorted(p for p in place.iterdir() if runtime_of(p))
        if len(found) != 1:
            raise UsageError(f"'{place}' holds {len(found)} files of models", hint="name the file")
        artifact = found[0]
    if not artifact.is_file():
        raise UsageError(f"no file '{artifact}'", hint="check the path")
    own, shared = artifact.with_suffix(f".{MANIFEST}"), artifact.with_name(MANIFEST)
    path = own if own.is_file() else shared if shared.is_file() else None
    reference = artifact.with_suffix(SUFFIX)
    return Companions(artifact, _read(path) if path else None, reference if reference.is_file() else None)


def write_manifest(artifact: Path, manifest: dict[str, Any]) -> Path:
    """Write the manifest of an artifact beside it and return its path."""
    path = artifact.with_suffix(f".{MANIFEST}")
    atomic_json(path, manifest)
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", hint="copy or export the artifact again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: no JSON object", hint="copy or export the artifact again")
    return found
