"""Records what `test_recorded.py` reads: `python -m tests.frameworks.record [NAME ...]`, after `make frameworks`.

Beside each history stands what the endpoint served.
"""

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from temporalio.client import Client

from durably import Server
from tests.frameworks.story import ANSWER, FRAMEWORKS, through_kill_9

FOLDER = Path(__file__).parent / "histories"


async def record(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Server(store=f"sqlite:///{folder}/store.db", port=0) as server:
            client = await Client.connect(server.address)
            run, answer, served = await through_kill_9(name, client, server.address, Path(folder))
            assert answer == ANSWER, answer
            history = (await run.fetch_history()).to_json_dict()
    found = {"served": [asdict(each) for each in served.served], "history": history}
    path = FOLDER / f"{name.replace('-', '_')}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path)


async def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names or FRAMEWORKS:
        await record(name)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
