"""The MongoDB stand-in, by the driver that the store uses."""

from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import DuplicateKeyError

from deploy.local.mongo import MongoServer


async def test_it_does_what_the_store_needs_and_keeps_it_across_a_restart(tmp_path: Path) -> None:
    server = MongoServer(tmp_path)
    try:
        await server.start()
        client: Any = AsyncIOMotorClient(server.url, serverSelectionTimeoutMS=5000)
        decisions = client.guichet.decisions
        await decisions.create_index("request", unique=True)

        await decisions.insert_one({"_id": 1, "request": "a", "version": 1})
        with pytest.raises(DuplicateKeyError):
            await decisions.insert_one({"_id": 2, "request": "a", "version": 1})

        changed = await decisions.find_one_and_update(
            {"_id": 1, "version": 1}, {"$inc": {"version": 1}}, return_document=ReturnDocument.AFTER
        )
        assert changed["version"] == 2
        assert await decisions.find_one_and_update({"_id": 1, "version": 1}, {"$inc": {"version": 1}}) is None

        upserts = [UpdateOne({"_id": n}, {"$setOnInsert": {"request": f"r{n}"}}, upsert=True) for n in range(1, 4)]
        result = await decisions.bulk_write(upserts, ordered=False)
        assert (result.upserted_count, result.matched_count) == (2, 1)

        await server.stop()
        await server.start()
        kept = await decisions.find({}).sort("_id", 1).to_list(None)
        assert [(one["_id"], one["request"]) for one in kept] == [(1, "a"), (2, "r2"), (3, "r3")]
        with pytest.raises(DuplicateKeyError):
            await decisions.insert_one({"_id": 9, "request": "a"})
        client.close()
    finally:
        await server.stop()
