"""Intake's endpoint written the plain way: FastAPI, one pydantic model, one awaited send a call.

It remembers nothing, so an event that comes twice is told twice; it checks no phone number, and has no batches.
"""

import argparse
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import uvicorn
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Header, HTTPException
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Applicant(Strict):
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    phone: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    email: Annotated[str, Field(min_length=3, max_length=254)] | None = None
    language: Literal["fr", "ar", "so", "aa", "en"] | None = None
    channel: Literal["sms", "email"] | None = None


class Place(Strict):
    address: Annotated[str, Field(min_length=1, max_length=300)] | None = None
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    latitude: float | None = None
    longitude: float | None = None


class Data(Strict):
    agency_reference: Annotated[str, Field(min_length=1, max_length=64)]
    service_code: Annotated[str, Field(min_length=1, max_length=64)]
    applicant: Applicant = Applicant()
    description: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    place: Place | None = None
    attributes: dict[str, bool | int | float | str] = {}


class Submitted(BaseModel):
    specversion: Literal["1.0"]
    id: Annotated[str, Field(min_length=1, max_length=128)]
    source: str
    type: Literal["guichet.request.submitted.v1"]
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: Data


class Accepted(BaseModel):
    event_id: str
    request_id: str
    outcome: Literal["accepted"] = "accepted"


def build(bootstrap: str, topic: str, keys: Mapping[str, str]) -> FastAPI:
    """The application. `keys`: the SHA-256 of each agency's key, in hexadecimal."""
    producer: AIOKafkaProducer

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal producer
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        yield
        await producer.stop()

    api = FastAPI(lifespan=lifespan)

    # FastAPI parses a body as JSON by its type only if that is application/json or ends in +json, as this one's does.
    @api.post("/v1/events", status_code=202)
    async def publish(event: Submitted, authorization: Annotated[str, Header()]) -> Accepted:
        key = authorization.removeprefix("Bearer ")
        agency = key.partition(".")[0]
        digest = hashlib.sha256(key.encode()).hexdigest()
        if not hmac.compare_digest(digest, keys.get(agency, "")):
            raise HTTPException(401, "no agency has this key")
        request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{agency}/{event.data.agency_reference}"))
        await producer.send_and_wait(topic, event.model_dump_json().encode(), key=request_id.encode())
        return Accepted(event_id=event.id, request_id=request_id)

    return api


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.plain_http", description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--keys", type=Path, required=True, help="each agency's key, as JSON")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    asked = parser.parse_args()
    keys = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in json.loads(asked.keys.read_text()).items()}
    uvicorn.run(build(asked.bootstrap, asked.topic, keys), host=asked.host, port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
