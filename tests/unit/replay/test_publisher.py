import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from deploy.replay.generator import generate
from deploy.replay.publisher import BATCH, STRUCTURED, TRIES_MAX, Answer, HttpDoor, Outcome, Player, is_batched
from deploy.replay.steps import Kind, Step
from shared.contract.events import Door

AT = datetime(2026, 3, 2, 9, tzinfo=UTC)


def step(reference: str, number: int = 1, door: Door = Door.HTTP) -> Step:
    event = {"id": f"{reference}-{number}", "data": {"agency_reference": reference}}
    return Step(AT, "edd", event, door, Kind.SUBMITTED)


ALONE = [f"R{number}" for number in range(100) if not is_batched(step(f"R{number}"))]
GATHERED = [f"R{number}" for number in range(400) if is_batched(step(f"R{number}"))]


@dataclass
class Intake:
    """An intake that answers as it is told to, and remembers what it was asked."""

    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    answers: list[Callable[[Any], web.Response]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.calls.append((request.headers["Authorization"], request.content_type, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(body)

    def answer(self, *answers: Callable[[Any], web.Response]) -> None:
        self.answers = list(answers)


def taken(body: Any) -> web.Response:
    one = {"outcome": "accepted", "request_id": "r", "reference": "7K3M-9XQ2-HTB4"}
    if isinstance(body, list):
        return web.json_response({"results": [{**one, "event_id": e["id"], "status": 202} for e in body]}, status=202)
    return web.json_response({**one, "event_id": body["id"]}, status=202)


def refused(body: Any) -> web.Response:
    problem = {"reason": "invalid_phone", "detail": "no phone", "field": "data.applicant.phone"}
    return web.json_response({"status": 422, "reason": "invalid_phone", "problems": [problem]}, status=422)


def busy(body: Any) -> web.Response:
    return web.json_response({"reason": "unavailable"}, status=503, headers={"Retry-After": "3"})


@pytest.fixture
async def intake() -> AsyncIterator[tuple[Intake, HttpDoor, list[float]]]:
    """The intake, a door to it, and how long the door waited each time before it tried again."""
    fake = Intake()
    application = web.Application()
    application.router.add_post("/v1/events", fake.handle)
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        yield fake, HttpDoor(str(server.make_url("/")), {"edd": "edd.secret"}, session, sleep=note), waits


type_of_fixture = tuple[Intake, HttpDoor, list[float]]


async def test_an_event_goes_by_itself_with_its_agency_s_key(intake: type_of_fixture) -> None:
    fake, door, _ = intake
    fake.answer(taken)

    answer = await door.send(step(ALONE[0]))

    assert (answer.outcome, answer.reference) == (Outcome.ACCEPTED, "7K3M-9XQ2-HTB4")
    assert fake.calls == [("Bearer edd.secret", STRUCTURED, step(ALONE[0]).event)]


async def test_a_refusal_is_told_with_its_reasons(intake: type_of_fixture) -> None:
    fake, door, waits = intake
    fake.answer(refused)

    answer = await door.send(step(ALONE[0]))

    assert (answer.outcome, answer.reasons, answer.detail) == (Outcome.REJECTED, ("invalid_phone",), "no phone")
    assert waits == []


async def test_an_intake_that_is_busy_is_asked_again_after_as_long_as_it_says(intake: type_of_fixture) -> None:
    fake, door, waits = intake
    fake.answer(busy, busy, taken)

    answer = await door.send(step(ALONE[0]))

    assert answer.outcome is Outcome.ACCEPTED
    assert waits == [3.0, 3.0]


async def test_an_intake_that_stays_busy_is_not_asked_for_ever(intake: type_of_fixture) -> None:
    fake, door, _ = intake
    fake.answer(busy)

    answer = await door.send(step(ALONE[0]))

    assert answer.outcome is Outcome.NOT_TAKEN
    assert len(fake.calls) == TRIES_MAX


async def test_nobody_there_is_no_answer() -> None:
    async def never(_seconds: float) -> None: ...

    async with aiohttp.ClientSession() as session:
        door = HttpDoor("http://127.0.0.1:9", {}, session, sleep=never)
        answer = await door.send(step(ALONE[0]))

    assert answer.outcome is Outcome.NOT_TAKEN
    assert answer.reasons == ("unavailable",)


async def test_a_key_that_is_not_known_says_nothing_of_the_event(intake: type_of_fixture) -> None:
    fake, door, _ = intake
    fake.answer(lambda _body: web.json_response({"reason": "unauthenticated"}, status=401))

    assert (await door.send(step(ALONE[0]))).outcome is Outcome.NOT_TAKEN


async def test_events_that_go_in_a_batch_get_each_its_own_answer(intake: type_of_fixture) -> None:
    fake, door, _ = intake

    def one_refused(body: Any) -> web.Response:
        results = json.loads(taken(body).body or b"")["results"]  # type: ignore[arg-type]
        results[1] = {"event_id": "x", "status": 422, "outcome": "rejected", "problems": [{"reason": "too_long"}]}
        return web.json_response({"results": results}, status=207)

    fake.answer(one_refused)

    answers = await asyncio.gather(*(door.send(step(reference)) for reference in GATHERED[:3]))

    assert [answer.outcome for answer in answers] == [Outcome.ACCEPTED, Outcome.REJECTED, Outcome.ACCEPTED]
    assert [answer.step.agency_reference for answer in answers] == GATHERED[:3]
    ((_, kind, body),) = fake.calls
    assert kind == BATCH
    assert [event["id"] for event in body] == [f"{reference}-1" for reference in GATHERED[:3]]


async def test_a_batch_holds_fifty_events_and_the_next_ones_go_in_another(intake: type_of_fixture) -> None:
    fake, door, _ = intake
    fake.answer(taken)

    answers = await asyncio.gather(*(door.send(step(reference)) for reference in GATHERED[:60]))

    assert all(answer.outcome is Outcome.ACCEPTED for answer in answers)
    assert sorted(len(body) for _, _, body in fake.calls) == [10, 50]


async def test_a_batch_that_one_event_spoils_is_sent_event_by_event(intake: type_of_fixture) -> None:
    fake, door, _ = intake
    fake.answer(lambda _body: web.json_response({"reason": "not_json"}, status=400), refused, taken)

    answers = await asyncio.gather(*(door.send(step(reference)) for reference in GATHERED[:2]))

    assert [answer.outcome for answer in answers] == [Outcome.REJECTED, Outcome.ACCEPTED]


class Recorder:
    """A door that answers when it is let, and remembers the order in which it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.calls: asyncio.Queue[str] = asyncio.Queue()
        self.gate = asyncio.Event()

    async def send(self, sent: Step) -> Answer:
        self.asked.append(sent.event_id)
        self.calls.put_nowait(sent.event_id)
        await self.gate.wait()
        return Answer(sent, Outcome.ACCEPTED)


async def played(steps: Sequence[Step], recorder: Recorder) -> list[Answer]:
    answers: list[Answer] = []
    await Player({Door.HTTP: recorder, Door.KAFKA: recorder}, speed=1e9).play(steps, on_answer=answers.append)
    return answers


async def test_a_request_s_next_event_waits_until_the_one_before_was_answered() -> None:
    recorder = Recorder()
    steps = [step("A", 1), step("B", 1, Door.KAFKA), step("A", 2), step("A", 3)]
    playing = asyncio.create_task(played(steps, recorder))
    await recorder.calls.get()
    await recorder.calls.get()
    for _ in range(20):
        await asyncio.sleep(0)  # whoever would not wait could go on now

    assert recorder.asked == ["A-1", "B-1"]

    recorder.gate.set()
    answers = await playing
    assert [one for one in recorder.asked if one.startswith("A")] == ["A-1", "A-2", "A-3"]
    assert len(answers) == 4


async def test_every_step_is_answered_once() -> None:
    recorder = Recorder()
    recorder.gate.set()
    steps = generate(200, seed=1).steps

    answers = await played(steps, recorder)

    assert sorted(id(answer.step) for answer in answers) == sorted(id(each) for each in steps)


def test_a_quarter_of_the_requests_go_in_batches() -> None:
    assert 60 < len(GATHERED) < 140
