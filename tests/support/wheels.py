# SPDX-License-Identifier: Apache-2.0
"""Wheels out of what .venv holds, so that installing can be tested without a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker


def repack(requirements: Path, folder: Path) -> str:
    """Put a wheel of each installed requirement into `folder`; a lock file for them."""
    lines = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        name, found, rest = line.partition("==")
        # A requirement of another platform or Python is not installed here.
        if not found or not _wanted(rest):
            continue
        distribution = metadata.distribution(name)
        wheel = _wheel(distribution, folder)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{name}=={distribution.version} --hash=sha256:{digest}")
    return "\n".join(lines) + "\n"


def _wanted(rest: str) -> bool:
    _, found, marker = rest.rstrip("\\ ").partition(";")
    return not found or Marker(marker.strip()).evaluate()


def _wheel(distribution: metadata.Distribution, folder: Path) -> Path:
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.partition(": ")[2].split("-") for line in lines if line.startswith("Tag: ")]
    # PEP 425: what the tags of a wheel have in each of their three places, joined by dots.
    tag = "-".join(".".join(sorted(set(place))) for place in zip(*tags, strict=True))
    name = distribution.metadata["Name"].replace("-", "_").replace(".", "_")
    wheel = folder / f"{name}-{distribution.version}-{tag}.whl"
    record = []
    info = ""
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in distribution.files or ():
            path = file.as_posix()
            if path.startswith("..") or path.endswith((".pyc", "/RECORD", "/INSTALLER")):
                if path.endswith("/RECORD"):
                    info = path
                continue
            data = Path(str(file.locate())).read_bytes()
            archive.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f'"{path}",sha256={digest},{len(data)}')
        archive.writestr(info, "\n".join([*record, f"{info},,"]) + "\n")
    return wheel
