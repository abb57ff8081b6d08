"""`vino doctor`: what is installed, which files were found, what will fit in memory."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..doctor.machine import Device, devices, memory, python_version
from ..doctor.packages import COMFYUI, PackageState, check_packages, comfyui_version, release

_NEEDED = ("torch", "numpy", "safetensors", "av", "pillow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH") or None,
        help="folder of ComfyUI, whose models folder is looked through (default: COMFYUI_PATH, or where this is "
        "installed)",
    )
    parser.add_argument("--models", type=Path, help="folder to look through instead")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _gigabytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _files(options: argparse.Namespace) -> dict[str, Any]:
    from ..doctor.inventory import missing_kinds, models_folder, take_inventory, width_conflicts

    root = models_folder(options.comfyui and Path(options.comfyui), options.models)
    if root is None:
        return {"folder": None, "found": [], "problems": [], "missing": {}, "conflicts": []}
    found, problems = take_inventory(root)
    return {
        "folder": str(root),
        "found": [{**asdict(entry), "path": str(entry.path)} for entry in found],
        "problems": [{"path": str(problem.path), "reason": problem.reason} for problem in problems],
        "missing": missing_kinds(found),
        "conflicts": width_conflicts(found),
    }


def _comfyui(options: argparse.Namespace) -> dict[str, str | None]:
    from ..doctor.inventory import comfyui_around

    folder = Path(options.comfyui) if options.comfyui else comfyui_around()
    return {"folder": folder and str(folder), "version": folder and comfyui_version(folder)}


def _memory(device: Device) -> list[dict[str, Any]]:
    from ..doctor.memory import activation_bytes, parameters, tokens, verdict
    from ..systems import SYSTEMS

    available = device.total if device.free is None else device.free
    rows = []
    for system, job in ((each, job) for each in SYSTEMS.values() for job in each.jobs):
        activations = activation_bytes(job, system, system.mmdit)
        for dtype, width in (("bf16", 2), ("fp8", 1)):
            weights = parameters(system.mmdit) * width
            rows.append(
                {
                    "system": system.published.title,
                    "job": job.name,
                    "dtype": dtype,
                    "tokens": tokens(job, system),
                    "weights": weights,
                    "activations": activations,
                    "verdict": verdict(weights, activations, available, offload=device.name.startswith("cuda")),
                }
            )
    return rows


def examine(options: argparse.Namespace) -> dict[str, Any]:
    """Everything the report says, as plain values; what needs missing packages is left out."""
    packages = check_packages()
    report: dict[str, Any] = {"python": python_version(), "packages": [asdict(package) for package in packages]}
    total, free = memory()
    report["memory"] = {"total": total, "free": free}
    report["comfyui"] = _comfyui(options)
    if any(package.name in _NEEDED and package.installed is None for package in packages):
        return report
    found = devices()
    report["devices"] = [asdict(device) for device in found]
    report["files"] = _files(options)
    report["needs"] = {"device": found[0].name, "rows": _memory(found[0])}
    return report


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _package_lines(report: dict[str, Any]) -> Iterator[str]:
    yield "Packages"
    states = [PackageState(**entry) for entry in report["packages"]]
    yield from _table(
        [
            (state.name, state.installed or "missing", state.purpose, "" if state.remedy is None else state.remedy)
            for state in states
        ]
    )


def _comfyui_line(comfyui: dict[str, str | None]) -> str:
    folder, version = comfyui["folder"], comfyui["version"]
    if folder is None:
        return "ComfyUI not looked for. Name its folder with --comfyui."
    if version is None:
        return f"ComfyUI of unknown version: {folder} has no comfyui_version.py that says it"
    old = f"; {COMFYUI} or newer is needed: update it" if release(version) < release(COMFYUI) else ""
    return f"ComfyUI {version} in {folder}{old}"


def _file_lines(files: dict[str, Any]) -> Iterator[str]:
    if files["folder"] is None:
        yield "Files: not looked for. Name ComfyUI's folder with --comfyui, or a folder with --models."
        return
    yield f"Files under {files['folder']}"
    rows = [
        (entry["kind"], Path(entry["path"]).name, entry["details"], entry["dtype"], _gigabytes(entry["size"]))
        for entry in files["found"]
    ]
    rows += [(kind, "missing", remedy, "", "") for kind, remedy in files["missing"].items()]
    yield from _table(rows)
    for problem in files["problems"]:
        yield f"  unusable: {problem['reason']}"
    for conflict in files["conflicts"]:
        yield f"  does not fit together: {conflict}"


def _need_lines(needs: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Memory for one step of the published models on {needs['device']} (weights exact, activations estimated; text "
        "encoder and VAE apart)"
    )
    for title in dict.fromkeys(row["system"] for row in needs["rows"]):
        rows = [
            (row["job"], row["dtype"], _gigabytes(row["weights"]), _gigabytes(row["activations"]), row["verdict"])
            for row in needs["rows"]
            if row["system"] == title
        ]
        yield from _table([(title, "dtype", "weights", "activations", "verdict"), *rows])
    yield (
        "  This is ComfyUI's memory, which keeps layers elsewhere (with offload) and loads fp8 and GGUF files. `vino "
        "generate` needs a bf16 row to fit: it widens fp8 to bf16, refuses GGUF, and --offload moves whole parts only."
    )


def _lines(report: dict[str, Any]) -> Iterator[str]:
    yield f"Python {report['python']}"
    yield f"Main memory {_gigabytes(report['memory']['total'])}, {_gigabytes(report['memory']['free'])} free"
    yield _comfyui_line(report["comfyui"])
    yield from _package_lines(report)
    if "devices" not in report:
        yield "Files and memory: not examined before the packages above are installed."
        return
    yield "Devices"
    yield from _table(
        [
            (entry["name"], entry["description"], f"{_gigabytes(entry['free'])} of {_gigabytes(entry['total'])} free")
            for entry in report["devices"]
        ]
    )
    yield from _file_lines(report["files"])
    yield from _need_lines(report["needs"])


def run(options: argparse.Namespace) -> int:
    """Print the report; 0 whatever it says. Raises InputError when a folder that was named does not exist."""
    report = examine(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0
