"""Runs the notebook docs/tutorial.ipynb, and makes a page of the site of it.

python scripts/dev/tutorial.py               # runs it, and writes what it shows into the file
python scripts/dev/tutorial.py --print       # prints the page

The notebook is kept with what it shows, so that it can be read where nothing is run; pictures are
small. What stands in it comes from this script, never from an editor.
"""

import base64
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from jaxcnn.commands.parser import script_parser

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
_PICTURES = "tutorial_files"


def read() -> Any:
    """Returns the notebook, a checked tree of nbformat."""
    return nbformat.read(NOTEBOOK, as_version=4)


def executed(notebook: Any) -> Any:
    """Runs all cells in a process and a folder of their own; returns the notebook with outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    import nbclient  # here, as the site is built without running anything
    from traitlets.config import Config

    notebook = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder of this user's, as with TCP any user could talk to the kernel.
        local = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        client = nbclient.NotebookClient(
            notebook,
            config=local,
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            coalesce_streams=True,
            record_timing=False,
        )
        client.execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                del output["data"]["text/plain"]  # the size of the figure
    return notebook


def shown(cell: Any) -> list[str]:
    """Returns the kinds of a cell's outputs, such as "stdout" or "image/png", sorted."""
    return sorted(
        output.get("name") or "/".join(sorted(output.get("data", [output["output_type"]])))
        for output in cell.get("outputs", [])
    )


def pages() -> dict[str, str | bytes]:
    """Returns the page and its pictures, by their path in the site."""
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in read().cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                path = f"{_PICTURES}/{len(pictures) + 1}.png"
                pictures[path] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell above draws]({path})")
            else:
                text = output.get("text") or data["text/plain"]
                parts.append(f"```text\n{text.rstrip()}\n```")
    head, *rest = parts
    note = "This page is a notebook: [download it](tutorial.ipynb) and run it cell by cell."
    return {"tutorial.md": "\n\n".join([head, note, *rest]) + "\n", **pictures}


def main() -> None:
    """Runs the notebook, or prints the page."""
    parser = script_parser(__doc__)
    parser.add_argument("--print", action="store_true", help="print the page, run nothing")
    if parser.parse_args().print:
        print(pages()["tutorial.md"])
        return
    nbformat.write(executed(read()), NOTEBOOK)
    print(f"wrote {NOTEBOOK}")


if __name__ == "__main__":
    main()
