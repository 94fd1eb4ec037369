"""The texts for citizens: read and checked when the service starts, so that none can fail when it is sent."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined, Template, TemplateError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup, escape

from services.notify.domain import Notification, Policy, Step, format_date
from services.notify.ports import Composed, Mail, ShortMessage, Unsendable
from services.notify.sms import encode, offending_characters
from shared.config import ConfigError, ConfigFile, ConfigModel, FieldPath, read_config
from shared.contract.events import Language

TEMPLATES: Final = Path(__file__).parent / "templates"
POLICIES: Final = "policies.yaml"

RIGHT_TO_LEFT: Final = frozenset({Language.ARABIC})

_LEFT_TO_RIGHT_MARK: Final = "\u200e"
_PARAGRAPH_END: Final = "\x1e"
"""Stands in no text and no value: intake takes no control characters."""

_ALWAYS = frozenset({"reference", "service"})
_ASSIGNED = frozenset({"office", "due_date"})
_NOTE = frozenset({"note"})
REQUIRED: Final = "reference"

_SEGMENTS_MAX = {Language.ARABIC: 2}
_SAMPLE_NAME = "Demande d'un extrait d'acte de naissance"
_SAMPLE_REFERENCE = "7K3M-9XQ2-HTB4"

_HTML = re.compile(r"</?[a-zA-Z!]|&(?:[a-zA-Z]+|#\d+);")
_LINK = re.compile(r"https?:|www\.", re.IGNORECASE)

_INSTEAD: Final = {
    "ç": "another word, as « enregistrée » for « reçue »",
    "ê": "another word, as « pourrez » for « êtes »",
    "â": "another word, as « travail » for « tâche »",
    "î": "another word, as « obtenir » for « connaître »",
    "ô": "another word, as « votre » for « vôtre »",
    "û": "the month in figures, for « août »",
    "œ": "oe",
    "À": "a sentence that does not begin with it",
    "È": "a sentence that does not begin with it",
    "’": "the straight apostrophe '",
    "“": 'straight quotation marks "',
    "”": 'straight quotation marks "',
    "‘": "the straight apostrophe '",
    "«": 'straight quotation marks "',
    "»": 'straight quotation marks "',
    "…": "three full stops",
    "–": "the hyphen -",
    "—": "the hyphen -",
    "\u00a0": "a plain space",
    "\u202f": "a plain space",
}


class StepTexts(ConfigModel):
    """What is said at one step: a short message, and a mail in paragraphs, of which empty ones are left out."""

    sms: str
    subject: str
    mail: tuple[str, ...]


class LanguageTexts(ConfigModel):
    """The texts of one language. `closing` ends every mail."""

    closing: str
    steps: dict[Step, StepTexts]


class StepPolicies(ConfigModel):
    """What becomes of an unknown message of each step, whatever its language."""

    steps: dict[Step, Policy]


@dataclass(frozen=True, slots=True)
class Rendering:
    """One step in one language, compiled: a mail with all its paragraphs, since each call of a template has its price.

    `version` changes when any of its words does.
    """

    version: str
    sms: Template
    subject: Template
    mail: Template
    mail_html: Template


class Templates:
    """Every step in every language; `load_templates` makes one."""

    def __init__(
        self,
        renderings: Mapping[tuple[Language, Step], Rendering],
        policies: Mapping[Step, Policy],
        layout: Template,
    ) -> None:
        self._renderings = renderings
        self._layout = layout
        self.policies = policies

    @property
    def versions(self) -> dict[tuple[Language, Step], str]:
        """The current version of each."""
        return {key: rendering.version for key, rendering in self._renderings.items()}

    def short_message(self, notification: Notification) -> Composed[ShortMessage]:
        """The SMS that says it. Unsendable if it can't be said so."""
        rendering = self._renderings[notification.language, notification.step]
        try:
            text = encode(rendering.sms.render(_marked(notification.personalisation, notification.language)))
        except (TemplateError, ValueError) as error:
            raise Unsendable("not_renderable") from error
        accepted = notification.provider_references if notification.template == rendering.version else ()
        message = ShortMessage(notification.id, notification.recipient or "", text, accepted)
        return Composed(message, rendering.version, len(text.parts))

    def mail(self, notification: Notification) -> Composed[Mail]:
        """The mail that says it. Unsendable if it can't be said so."""
        rendering = self._renderings[notification.language, notification.step]
        values = {"note": ""} | notification.personalisation
        marked = _marked(values, notification.language)
        # A value keeps its own direction inside a sentence of the other one.
        isolated = {name: value and Markup(f"<bdi>{escape(value)}</bdi>") for name, value in values.items()}  # noqa: S704 - escaped
        try:
            subject = rendering.subject.render(marked)
            html = self._layout.render(
                language=notification.language.value,
                direction="rtl" if notification.language in RIGHT_TO_LEFT else "ltr",
                subject=subject,
                paragraphs=[Markup(each) for each in _paragraphs(rendering.mail_html, isolated)],  # noqa: S704 - escaped
            )
            text = "\n\n".join(_paragraphs(rendering.mail, marked)) + "\n"
        except TemplateError as error:
            raise Unsendable("not_renderable") from error
        mail = Mail(notification.id, notification.recipient or "", notification.language, subject, text, html)
        return Composed(mail, rendering.version, 0)


def load_templates(directory: Path = TEMPLATES) -> Templates:
    """Read `<language>.yaml` for every language, and the steps' policies.

    ConfigError naming file, step and field for all that is wrong.

    What is checked: every language and step is there; only fields that the step has are used, and the reference
    always; no HTML and no links; a French, English, Somali or Afar SMS is GSM 03.38 and one segment with values of
    usual length, an Arabic one two at most.
    """
    plain = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    escaping = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=True)
    for environment in (plain, escaping):
        # A text has its fields and nothing else, and what else there is would be gathered anew at each rendering.
        environment.globals.clear()
    problems: list[str] = []
    renderings: dict[tuple[Language, Step], Rendering] = {}
    for language in Language:
        try:
            file = read_config(directory / f"{language.value}.yaml", LanguageTexts)
        except ConfigError as error:
            problems += error.problems
            continue
        found = list(_problems(plain, language, file))
        problems += found
        if not found:
            texts = file.content
            renderings |= {
                (language, step): _compile(plain, escaping, language, step, said, texts.closing)
                for step, said in texts.steps.items()
            }
    policies: Mapping[Step, Policy] = {}
    try:
        policies = _policies(directory / POLICIES)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return Templates(
        renderings, policies, escaping.from_string((directory / "mail.html.j2").read_text(encoding="utf-8"))
    )


def _policies(path: Path) -> Mapping[Step, Policy]:
    file = read_config(path, StepPolicies)
    missing = [step for step in Step if step not in file.content.steps]
    if missing:
        raise ConfigError(file.problem(("steps", step.value), "this step is missing") for step in missing)
    return file.content.steps


def _compile(
    plain: Environment, escaping: Environment, language: Language, step: Step, said: StepTexts, closing: str
) -> Rendering:
    digest = sha256("\0".join((said.sms, said.subject, *said.mail, closing)).encode()).hexdigest()
    mail = _PARAGRAPH_END.join((*said.mail, closing))
    return Rendering(
        version=f"{language.value}/{step}@{digest[:12]}",
        sms=plain.from_string(said.sms.strip()),
        subject=plain.from_string(said.subject.strip()),
        mail=plain.from_string(mail),
        mail_html=escaping.from_string(mail),
    )


def _marked(values: Mapping[str, str], language: Language) -> Mapping[str, str]:
    """The values as plain text shows them: from right to left, groups of digits alone would change places."""
    if language not in RIGHT_TO_LEFT:
        return values
    return {**values, "reference": _LEFT_TO_RIGHT_MARK + values["reference"]}


def _paragraphs(mail: Template, values: Mapping[str, str]) -> list[str]:
    """Those that say anything."""
    rendered = map(str.strip, mail.render(values).split(_PARAGRAPH_END))
    return [each for each in rendered if each]


def _problems(environment: Environment, language: Language, file: ConfigFile[LanguageTexts]) -> Iterator[str]:
    for problem in _problems_of_text(environment, file.content.closing, frozenset()):
        yield file.problem(("closing",), problem)
    for step in Step:
        said = file.content.steps.get(step)
        if said is None:
            yield file.problem(("steps", step.value), "this step is missing")
            continue
        for field, problem in _problems_of_step(environment, language, step, said):
            yield file.problem(("steps", step.value, *field), problem)


def _problems_of_step(
    environment: Environment, language: Language, step: Step, said: StepTexts
) -> Iterator[tuple[FieldPath, str]]:
    fields = _ALWAYS | (_ASSIGNED if step is Step.ASSIGNED else frozenset())
    written: list[tuple[FieldPath, str, frozenset[str]]] = [
        (("sms",), said.sms, fields),
        (("subject",), said.subject, fields),
        *((("mail", index), text, fields | _NOTE) for index, text in enumerate(said.mail)),
    ]
    wrong = [
        (field, what) for field, text, allowed in written for what in _problems_of_text(environment, text, allowed)
    ]
    yield from wrong
    if wrong:
        return
    for name, text in (("sms", said.sms), ("subject", said.subject), ("mail", "\n".join(said.mail))):
        if REQUIRED not in _fields(environment, text):
            yield (name,), f"the field {REQUIRED!r} is required: the citizen asks by it"
    for problem in _problems_of_sms(environment, language, said.sms):
        yield ("sms",), problem


def _problems_of_text(environment: Environment, text: str, allowed: frozenset[str]) -> Iterator[str]:
    try:
        fields = _fields(environment, text)
    except TemplateError as error:
        yield f"not a template: {error}"
        return
    for field in sorted(fields - allowed):
        yield f"the field {field!r} is unknown here; there are: {', '.join(sorted(allowed)) or 'none'}"
    if not text.strip():
        yield "empty"
    if _HTML.search(text):
        yield "HTML is not written here: paragraphs are laid out by mail.html.j2"
    if _LINK.search(text):
        yield "links are not written here: a citizen should not learn to follow them"


def _problems_of_sms(environment: Environment, language: Language, text: str) -> Iterator[str]:
    sample = environment.from_string(text.strip()).render(_marked(_sample_values(language), language))
    if language not in _SEGMENTS_MAX:
        for character in offending_characters(sample):
            hint = _INSTEAD.get(character, "another word or sign")
            yield f"{character!r} is not in GSM 03.38 and would halve the segment; write {hint}"
    limit = _SEGMENTS_MAX.get(language, 1)
    needed = len(encode(sample).parts)
    if needed > limit:
        yield f"takes {needed} segments with values of usual length ({len(sample)} characters), and may take {limit}"


def _fields(environment: Environment, text: str) -> set[str]:
    parsed: nodes.Template = environment.parse(text)
    return find_undeclared_variables(parsed)


def _sample_values(language: Language) -> dict[str, str]:
    name = _SAMPLE_NAME if language is not Language.ARABIC else "طلب مستخرج من شهادة الميلاد"
    return {
        "reference": _SAMPLE_REFERENCE,
        "service": name,
        "office": name,
        "due_date": format_date(date(2026, 9, 24), language),
    }
