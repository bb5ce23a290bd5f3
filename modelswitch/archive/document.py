"""`modelswitch.json`: what an archive is. Its SHA-256 is the archive's digest.

It lists the digest and size of every entry but the manifest, which is derived from it. Read it
as bytes and hash those: encoding it anew is the writer's business alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelswitch.archive.golden import Golden
from modelswitch.archive.layout import DOCUMENT
from modelswitch.archive.recipe import Recipe
from modelswitch.errors import ArchiveError
from modelswitch.line import DIGEST_PREFIX, label_of

SCHEMA = 1
MAX_BYTES = 16 << 20  # a golden request is most of it, and every proof sends that

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
# Nothing that a file system could take for something else, and no way out of the folder.
_PART = r"[A-Za-z0-9_]([A-Za-z0-9_.+=@-]{0,125}[A-Za-z0-9_+=@-])?"
ENTRY_NAME = rf"^{_PART}(/{_PART}){{0,15}}$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Identity(_Strict):
    """Which version of which model, and where it came from."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$")]
    version: Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
    run_id: str | None
    source: str


class Signature(_Strict):
    """MLflow's schemas, as JSON: what goes in, what comes out, what may go along."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]] | None = None
    params: list[dict[str, Any]] | None = None


class Entry(_Strict):
    digest: Digest
    size: Annotated[int, Field(ge=0)]


class Document(_Strict):
    """The whole document. `requirements`: what a worker must have for it, pip's syntax.

    `runs_code`: loading the model runs code that came with it, a pickle's or a Python file's.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    identity: Identity
    signature: Signature
    recipe: Recipe
    requirements: tuple[str, ...] = ()
    runs_code: bool = False
    golden: Golden | None
    entries: dict[Annotated[str, Field(pattern=ENTRY_NAME)], Entry]

    @property
    def bytes(self) -> bytes:
        """The canonical text as the writer puts it into the archive: UTF-8, keys sorted."""
        data = self.model_dump(mode="json", by_alias=True)
        text = json.dumps(
            data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode() + b"\n"

    def label(self, digest: str) -> str:
        """TorchServe's version label: `3-ab12cd34`."""
        return label_of(self.identity.version, digest)


def digest_of(document_bytes: bytes) -> str:
    """The archive's identity: `sha256:…` of its document's bytes."""
    return DIGEST_PREFIX + hashlib.sha256(document_bytes).hexdigest()


def parse(text: bytes, *, source: str) -> Document:
    """Read a document; raises ArchiveError naming the place in it that is wrong."""
    try:
        known = json.loads(text)
    except ValueError as error:
        raise ArchiveError(f"{source}: {DOCUMENT} is not JSON: {error}") from error
    schema = known.get("schema") if isinstance(known, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise ArchiveError(
            f"{source}: {DOCUMENT} has schema {schema}, this release knows {SCHEMA}",
            next="upgrade modelswitch here",
        )
    try:
        document = Document.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ArchiveError(f"{source}: {DOCUMENT}: {where}: {first['msg']}") from error
    check_entries(document.entries, source=source)
    return document


def check_entries(names: dict[str, Any], *, source: str) -> None:
    """Refuse names that lead elsewhere, stand for our own, or are one on some file systems."""
    folded: dict[str, str] = {DOCUMENT: DOCUMENT, "mar-inf": "MAR-INF"}
    for name in names:
        if not re.fullmatch(ENTRY_NAME, name):
            raise ArchiveError(
                f"{source}: {name!r} cannot be the name of an entry",
                next="rename the file: letters of ASCII, digits and _ . + = @ - do, and folders",
            )
        other = folded.setdefault(name.casefold(), name)
        if other is not name:
            raise ArchiveError(f"{source}: the entries {other} and {name} share a name")
    for name in names:
        parts = name.casefold().split("/")
        above = ("/".join(parts[:i]) for i in range(1, len(parts)))
        if other := next((folded[place] for place in above if place in folded), ""):
            raise ArchiveError(f"{source}: the entry {name} has {other} for a folder")
