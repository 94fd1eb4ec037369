"""The `guichet` command as an operator and an agency use it, on a real Kafka."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from deploy.cli.running import Exit
from deploy.jurisdictions import DJIBOUTI
from tests.mesh.command import run_guichet

EVENT = {
    "specversion": "1.0",
    "id": "first",
    "source": "/test",
    "type": "guichet.request.submitted.v1",
    "time": "2026-03-01T08:00:00+03:00",
    "data": {"agency_reference": "1", "service_code": "birth-certificate"},
}


def guichet(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP_SERVERS"}
    return run_guichet(*arguments, env=env, stdin=stdin)


@pytest.mark.parametrize("command", ["up", "replay", "publish", "check", "notifications", "topics apply"])
def test_each_command_explains_itself(command: str) -> None:
    told = guichet(*command.split(), "--help")
    assert told.returncode == Exit.DONE
    assert "Usage: guichet" in told.stdout


async def test_topics_are_created_once_and_then_found(kafka: str) -> None:
    arguments = ("topics", "apply", "--bootstrap", kafka, "--partitions", "6", "--replication", "1", "--json")
    guichet(*arguments)
    again = guichet(*arguments, "--jurisdiction", DJIBOUTI)
    assert again.returncode == Exit.DONE
    topics = {entry["topic"]: entry for entry in json.loads(again.stdout)}
    assert topics["requests.accepted"] == {"topic": "requests.accepted", "partitions": 6, "action": "exists"}
    assert topics["agency.etat-civil.events"]["action"] == "exists"


async def test_unequal_partitions_are_refused_with_what_to_do(kafka: str) -> None:
    guichet("topics", "apply", "--bootstrap", kafka, "--partitions", "6", "--replication", "1")
    refused = guichet("topics", "apply", "--bootstrap", kafka, "--partitions", "7", "--replication", "1")
    assert refused.returncode == Exit.CONFIGURATION
    assert "requests.accepted has 6" in refused.stderr
    assert "drain" in refused.stderr


async def test_an_event_from_standard_input_stands_on_the_agency_s_topic(kafka: str) -> None:
    guichet("topics", "apply", "--bootstrap", kafka, "--partitions", "6", "--replication", "1")
    arguments = ("publish", "-", "--kafka", "--agency", "etat-civil", "--bootstrap", kafka, "--json")
    published = guichet(*arguments, stdin=json.dumps(EVENT))
    assert published.returncode == Exit.DONE, published.stderr
    (told,) = json.loads(published.stdout)
    assert (told["outcome"], told["topic"]) == ("published", "agency.etat-civil.events")


def test_without_a_mesh_or_an_address_publishing_says_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(EVENT))
    told = guichet("publish", file, "--agency", "etat-civil", "--dir", tmp_path)
    assert told.returncode == Exit.CONFIGURATION
    assert "guichet up" in told.stderr


def test_an_intake_that_does_not_answer_is_told_from_a_refusal(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(EVENT))
    told = guichet("publish", file, "--url", "http://127.0.0.1:9", "--key", "etat-civil.x")
    assert told.returncode == Exit.UNAVAILABLE
    assert "127.0.0.1:9" in told.stderr


def test_a_file_that_can_t_be_replayed_is_a_sentence_and_not_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text("name,age\nsomebody,3\n")
    told = guichet("replay", file, "--dir", tmp_path / "mesh")
    assert told.returncode == Exit.CONFIGURATION
    assert "Traceback" not in told.stderr
    assert "requests.csv" in told.stderr


def test_a_replay_never_clears_a_directory_that_is_not_a_mesh_s(tmp_path: Path) -> None:
    own = tmp_path / "thesis.txt"
    own.write_text("years of work")
    told = guichet("replay", "--count", "1", "--dir", tmp_path, "--report", tmp_path / "report.json")
    assert told.returncode == Exit.CONFIGURATION
    assert str(tmp_path) in told.stderr
    assert own.read_text() == "years of work"


def test_a_report_that_can_t_be_written_is_told_before_anything_is_replayed(tmp_path: Path) -> None:
    told = guichet("replay", "--count", "1", "--dir", tmp_path / "mesh", "--report", tmp_path / "none" / "report.json")
    assert told.returncode == Exit.CONFIGURATION
    assert "No such file or directory" in told.stderr
    assert not (tmp_path / "mesh").exists()


def test_a_folder_where_a_file_is_due_is_a_sentence_and_not_a_trace(tmp_path: Path) -> None:
    told = guichet("publish", tmp_path, "--url", "http://127.0.0.1:9", "--key", "etat-civil.x")
    assert told.returncode == Exit.CONFIGURATION
    assert "Traceback" not in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize("agency", ["nobody", "no such"])
async def test_an_agency_without_a_topic_is_told_at_once(kafka: str, agency: str) -> None:
    told = guichet("publish", "-", "--kafka", "--agency", agency, "--bootstrap", kafka, stdin=json.dumps(EVENT))
    assert told.returncode == Exit.CONFIGURATION
    assert f"agency.{agency}.events" in told.stderr
    assert told.stderr.count("\n") == 1
