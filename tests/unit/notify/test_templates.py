import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from services.notify.domain import Notification, State, Step
from services.notify.ports import Unsendable
from services.notify.rendering import TEMPLATES, Templates, load_templates
from services.notify.sms import Encoding
from shared.config import ConfigError
from shared.contract.events import Channel, Language, Timeline

ARABIC_DIGITS = re.compile("[\u0660-\u0669\u06f0-\u06f9]")


def notification(step: Step, language: Language = Language.FRENCH, **values: str) -> Notification:
    usual = {"reference": "7K3M-9XQ2-HTB4", "service": "Extrait d'acte de naissance"}
    if step is Step.ASSIGNED:
        usual |= {"office": "Bureau d'état civil", "due_date": "14/12/2026"}
    now = datetime(2026, 11, 1, tzinfo=UTC)
    return Notification(
        id="n",
        cause="e",
        request_id="r",
        reference="7K3M-9XQ2-HTB4",
        agency="port",
        service_code="birth",
        step=step,
        channel=Channel.SMS,
        language=language,
        template="",
        recipient="+25377112233",
        personalisation=usual | values,
        status=State.PLANNED,
        not_before=now,
        timeline=Timeline(),
    )


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("step", Step)
def test_every_step_is_said_in_every_language_with_its_reference_and_in_latin_digits(
    templates: Templates, language: Language, step: Step
) -> None:
    said = notification(step, language)
    sms, mail = templates.short_message(said), templates.mail(said)
    text = "".join(sms.message.text.parts)
    for form in (text, mail.message.subject, mail.message.text, mail.message.html):
        assert "7K3M-9XQ2-HTB4" in form
        assert not ARABIC_DIGITS.search(form)
        assert "{" not in form.replace("style", "")
    assert sms.segments == 1 or (language is Language.ARABIC and sms.segments == 2)
    assert sms.message.text.encoding is (Encoding.UCS2 if language is Language.ARABIC else Encoding.GSM)
    assert sms.template == mail.template == templates.versions[language, step]


def test_in_arabic_a_mark_keeps_the_groups_of_a_reference_in_their_order(templates: Templates) -> None:
    # Without it the bidirectional algorithm (UAX 9, W2 and N1) shows 1234-K9XQ as K9XQ-1234 behind an Arabic letter.
    said = notification(Step.ACCEPTED, Language.ARABIC, reference="1234-K9XQ-HTB4")
    mail = templates.mail(said).message
    for text in ("".join(templates.short_message(said).message.text.parts), mail.subject, mail.text):
        assert "\u200e1234-K9XQ-HTB4" in text
    assert "<bdi>1234-K9XQ-HTB4</bdi>" in mail.html


def test_a_service_with_a_name_beyond_gsm_keeps_its_accents_and_goes_as_ucs2(templates: Templates) -> None:
    sms = templates.short_message(notification(Step.ACCEPTED, service="Carte d’identité à l’hôtel de ville"))
    assert "l’hôtel" in "".join(sms.message.text.parts)
    assert sms.message.text.encoding is Encoding.UCS2
    assert sms.segments == 2


@pytest.mark.parametrize(
    "note", ["<script>alert(1)</script>", "{{ 7*7 }}", "{% for x in y %}", "a & b", "{0.__class__}"]
)
def test_a_note_is_shown_as_it_was_written_and_is_never_run(templates: Templates, note: str) -> None:
    mail = templates.mail(notification(Step.RESOLVED, note=note)).message
    assert note in mail.text
    assert "<script" not in mail.html
    if "<" in note:
        assert "&lt;script&gt;" in mail.html
    assert "49" not in mail.text


def test_without_a_note_its_paragraph_is_left_out(templates: Templates) -> None:
    with_note = templates.mail(notification(Step.RESOLVED, note="Passez demain")).message
    without = templates.mail(notification(Step.RESOLVED)).message
    assert "Message du service : Passez demain" in with_note.text
    assert "Message du service" not in without.text + without.html
    assert without.html.count("<p") == with_note.html.count("<p") - 1


def test_arabic_is_laid_out_from_right_to_left_and_keeps_the_direction_of_values(templates: Templates) -> None:
    html = templates.mail(notification(Step.ACCEPTED, Language.ARABIC)).message.html
    assert '<html lang="ar" dir="rtl">' in html
    assert '<body dir="rtl"' in html
    assert "<bdi>7K3M-9XQ2-HTB4</bdi>" in html


def test_a_missing_value_makes_the_message_unsendable_rather_than_incomplete(templates: Templates) -> None:
    lacking = notification(Step.ASSIGNED)
    lacking = replace(lacking, personalisation={"reference": "x", "service": "y"})
    with pytest.raises(Unsendable, match="not_renderable"):
        templates.short_message(lacking)
    with pytest.raises(Unsendable, match="not_renderable"):
        templates.mail(lacking)


def test_somali_and_afar_texts_say_that_they_await_review() -> None:
    for language in (Language.SOMALI, Language.AFAR):
        assert "Awaiting review by a native speaker" in (TEMPLATES / f"{language.value}.yaml").read_text()


Edit = Callable[[dict[str, Any]], object]


def set_text(field: str, text: str, step: str = "accepted") -> Edit:
    return lambda texts: texts["steps"][step].update({field: text})


@pytest.mark.parametrize(
    ("language", "edit", "said"),
    [
        ("fr", set_text("sms", "{{ reference }} {{ name }}"), r"fr.yaml:\d+: steps.accepted.sms: the field 'name'"),
        ("fr", set_text("sms", "{{ reference }} {{ note }}"), r"steps.accepted.sms: the field 'note' is unknown here"),
        ("fr", set_text("sms", "{{ reference }} {{ office }}"), r"steps.accepted.sms: the field 'office' is unknown"),
        ("fr", set_text("sms", "Demande enregistrée."), r"steps.accepted.sms: the field 'reference' is required"),
        ("fr", set_text("subject", "Votre demande"), r"steps.accepted.subject: the field 'reference' is required"),
        ("fr", set_text("sms", "{{ reference }} reçue"), r"steps.accepted.sms: 'ç' is not in GSM.*« enregistrée »"),
        ("fr", set_text("sms", "{{ reference }} l’état"), r"steps.accepted.sms: '’' is not in GSM.*apostrophe"),
        ("so", set_text("sms", "{{ reference }} “a"), r"so.yaml:\d+: steps.accepted.sms: '“' is not in GSM"),
        ("en", set_text("sms", "{{ reference }}" + "a" * 150), r"en.yaml.*steps.accepted.sms: takes 2 segments"),
        ("ar", set_text("sms", "{{ reference }}" + "ش" * 130), r"ar.yaml.*steps.accepted.sms: takes 3 segments"),
        ("fr", set_text("sms", "<b>{{ reference }}</b>"), r"steps.accepted.sms: HTML is not written here"),
        ("fr", set_text("subject", "{{ reference }} &amp;"), r"steps.accepted.subject: HTML is not written here"),
        ("fr", set_text("sms", "{{ reference }} www.example.org"), r"steps.accepted.sms: links are not written here"),
        ("fr", set_text("sms", "{{ reference"), r"steps.accepted.sms: not a template"),
        ("fr", set_text("sms", " "), r"steps.accepted.sms: empty"),
        ("fr", lambda t: t["steps"]["assigned"]["mail"].append("{{ phone }}"), r"steps.assigned.mail\[3\]: .*'phone'"),
        ("fr", lambda t: t["steps"].pop("resolved"), r"fr.yaml:\d+: steps.resolved: this step is missing"),
        ("fr", lambda t: t["steps"]["resolved"].pop("sms"), r"fr.yaml:\d+: steps.resolved.sms: field required"),
        ("fr", lambda t: t["steps"].update(lost={"sms": "", "subject": "", "mail": []}), r"fr.yaml:\d+: steps"),
        ("fr", lambda t: t.update(closing="{{ reference }}"), r"fr.yaml:\d+: closing: the field 'reference'"),
    ],
)
def test_a_wrong_template_is_refused_with_file_step_and_field(
    tmp_path: Path, language: str, edit: Edit, said: str
) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    path = folder / f"{language}.yaml"
    texts = yaml.safe_load(path.read_text())
    edit(texts)
    path.write_text(yaml.safe_dump(texts, allow_unicode=True, width=10_000))
    with pytest.raises(ConfigError, match=said) as error:
        load_templates(folder)
    assert len(error.value.problems) == 1


def test_a_language_without_a_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    (folder / "aa.yaml").unlink()
    with pytest.raises(ConfigError, match=r"aa.yaml: cannot be read"):
        load_templates(folder)


def test_each_step_has_a_policy_for_what_nobody_knows_of(tmp_path: Path, templates: Templates) -> None:
    assert templates.policies.keys() == set(Step)
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    path = folder / "policies.yaml"
    path.write_text("steps:\n  accepted: at_most_once\n")
    with pytest.raises(ConfigError, match=r"policies.yaml:\d+: steps.*: this step is missing"):
        load_templates(folder)
    path.write_text("steps:\n  accepted: whenever\n")
    with pytest.raises(ConfigError, match=r"policies.yaml:2: steps.accepted"):
        load_templates(folder)


def test_a_version_changes_with_its_words_and_with_nothing_else(tmp_path: Path, templates: Templates) -> None:
    folder = tmp_path / "templates"
    shutil.copytree(TEMPLATES, folder)
    path = folder / "en.yaml"
    path.write_text("# a comment\n" + path.read_text().replace("it is done. Thank you.", "it is done."))
    changed = {key for key, version in load_templates(folder).versions.items() if version != templates.versions[key]}
    assert changed == {(Language.ENGLISH, Step.RESOLVED)}
