from collections.abc import Callable

import pytest

from deploy.jurisdictions import DJIBOUTI
from services.routing.domain import Condition, Rules
from services.routing.rules import load_rules
from shared.config import ConfigError
from shared.contract.events import AttributeValue, Language, RequestAccepted
from shared.jurisdiction import load_jurisdiction

MakeRequest = Callable[..., RequestAccepted]
WriteRules = Callable[[str], Rules]


def first_match(rules: Rules, request: RequestAccepted) -> str | None:
    rule = rules.first_match(request.data)
    return None if rule is None else rule.id


def problems_of(write_rules: WriteRules, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        write_rules(text)
    return tuple(problem.partition("rules.yaml:")[2] for problem in refused.value.problems)


def test_the_first_rule_that_matches_decides(write_rules: WriteRules, make_request: MakeRequest) -> None:
    rules = write_rules("""\
rules:
  - {id: urgent, when: {service: passport, attributes: {urgent: true}}, office: plateau, promise_days: 1}
  - {id: balbala, when: {service: [birth, passport], zone: Balbala}, office: balbala, promise_days: 3}
  - {id: passport, when: {service: passport}, office: plateau, promise_days: 10}
  - {id: rest, office: obock, promise_days: 20}
""")
    passport = {"service": "passport", "zone": "Balbala"}
    assert first_match(rules, make_request(**passport, urgent=True)) == "urgent"
    assert first_match(rules, make_request(**passport)) == "balbala"
    assert first_match(rules, make_request(service="passport")) == "passport"
    assert first_match(rules, make_request(service="birth", zone="Balbala")) == "balbala"
    assert first_match(rules, make_request(service="birth", urgent=True)) == "rest"
    assert first_match(rules, make_request(service="unheard-of")) is None


@pytest.mark.parametrize(
    ("when", "meets", "fails"),
    [
        ("service: birth", {"service": "birth"}, {"service": "leak"}),
        ("agency: health", {"agency": "health"}, {"agency": "civil"}),
        ("agency: [health, civil]", {"agency": "civil"}, None),
        ("language: [ar, so]", {"language": Language.SOMALI}, {"language": Language.FRENCH}),
        ("language: ar", {"language": Language.ARABIC}, {"language": None}),
        ("zone: Balbala", {"zone": " BALBALA"}, {"zone": "Balbala 2"}),
        ("zone: É", {"zone": "e\u0301"}, {"zone": "E"}),
        ("zone: [Arta, '7']", {"zone": "7"}, {"zone": None}),
        ("zone: no", {"zone": "no"}, {"zone": "false"}),
    ],
)
def test_a_condition_holds_for_each_of_its_values_and_never_for_what_is_absent(
    write_rules: WriteRules,
    make_request: MakeRequest,
    when: str,
    meets: dict[str, str],
    fails: dict[str, str] | None,
) -> None:
    rules = write_rules(f"rules: [{{id: only, when: {{{when}}}, office: plateau, promise_days: 1}}]\n")
    assert first_match(rules, make_request(**meets)) == "only"
    if fails is not None:
        assert first_match(rules, make_request(**fails)) is None


@pytest.mark.parametrize(
    ("written", "meets", "fails"),
    [
        ("true", [True], [1, 1.0, "true", False]),
        ("1", [1, 1.0], [True, "1", 2]),
        ("[small, 2.5]", ["small", 2.5], ["Small", 2]),
        ("yes", ["yes"], [True]),
    ],
)
def test_attributes_are_compared_as_json_values(
    write_rules: WriteRules,
    make_request: MakeRequest,
    written: str,
    meets: list[AttributeValue],
    fails: list[AttributeValue],
) -> None:
    rules = write_rules(
        f"rules: [{{id: only, when: {{attributes: {{size: {written}}}}}, office: plateau, promise_days: 1}}]\n"
    )
    assert [first_match(rules, make_request(size=value)) for value in meets] == ["only"] * len(meets)
    assert [first_match(rules, make_request(size=value)) for value in fails] == [None] * len(fails)
    assert first_match(rules, make_request(colour="red")) is None


def test_all_attributes_of_a_condition_must_be_met(write_rules: WriteRules, make_request: MakeRequest) -> None:
    rules = write_rules("rules: [{id: only, when: {attributes: {a: 1, b: 2}}, office: plateau, promise_days: 1}]\n")
    assert first_match(rules, make_request(a=1, b=2, c=3)) == "only"
    assert first_match(rules, make_request(a=1)) is None


def test_what_the_jurisdiction_does_not_have_is_refused_all_at_once(write_rules: WriteRules) -> None:
    text = """\
rules:
  - id: a
    when:
      service: [birth, brith]
      agency: haelth
    office: plataeu
    promise_days: 1
  - id: a
    when: {service: leak}
    office: obock
    promise_days: 1
"""
    assert problems_of(write_rules, text) == (
        "6: rules[0].office: no office 'plataeu' in services.yaml",
        "4: rules[0].when.service[1]: no service 'brith' in services.yaml",
        "5: rules[0].when.agency: no agency 'haelth' in agencies.yaml",
        "8: rules[1].id: 'a' is used already on line 2",
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("promise_days: 1", "promise_days: -1", "4: rules[0].promise_days: "),
        ("promise_days: 1", "promise_days: 1.5", "4: rules[0].promise_days: "),
        ("promise_days: 1", "promise_days: 99999", "4: rules[0].promise_days: "),
        ("promise_days: 1", "promise: 1", "2: rules[0].promise_days: field required"),
        ("service: birth", "services: birth", "2: rules[0].when.services: unknown field"),
        ("service: birth", "zone: 7", "2: rules[0].when.zone: should be text; put it in quotes"),
        ("service: birth", "zone: []", "2: rules[0].when.zone: "),
        ("service: birth", "language: [fr, xx]", "2: rules[0].when.language[1]: "),
        ("service: birth", "attributes: {a: {b: 1}}", "2: rules[0].when.attributes.a: "),
        ("rules:", "version: a b\nrules:", "1: version: "),
    ],
)
def test_a_rule_that_can_not_be_read_is_refused_with_line_and_field(
    write_rules: WriteRules, old: str, new: str, problem: str
) -> None:
    text = "rules:\n  - {id: a, when: {service: birth},\n     office: plateau,\n     promise_days: 1}\n"
    assert old in text
    found = problems_of(write_rules, text.replace(old, new))
    assert any(one.startswith(problem) for one in found), found


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("{}", "{}"),
        ("{}", "{service: birth}"),
        ("{service: [birth, leak]}", "{service: leak, zone: Arta}"),
        ("{zone: ARTA}", "{zone: arta}"),
        ("{attributes: {a: [1, 2]}}", "{attributes: {a: 1, b: 2}}"),
        ("{language: [fr, ar], agency: civil}", "{language: ar, agency: civil, service: birth}"),
    ],
)
def test_a_rule_that_an_earlier_one_shadows_is_refused(write_rules: WriteRules, earlier: str, later: str) -> None:
    text = f"""\
rules:
  - {{id: first, when: {{service: passport, zone: Obock}}, office: plateau, promise_days: 1}}
  - {{id: wide, when: {earlier}, office: plateau, promise_days: 1}}
  - {{id: narrow, when: {later}, office: obock, promise_days: 1}}
"""
    assert problems_of(write_rules, text) == (
        "4: rules[2]: can't be reached: rule 'wide' on line 3 takes all that it would",
    )


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("{service: birth}", "{}"),
        ("{service: birth}", "{service: [birth, leak]}"),
        ("{zone: Arta}", "{service: birth}"),
        ("{attributes: {a: 1}}", "{attributes: {a: true}}"),
        ("{attributes: {a: 1, b: 1}}", "{attributes: {a: 1}}"),
        ("{language: fr}", "{agency: civil}"),
    ],
)
def test_a_rule_that_can_still_be_reached_is_kept(
    write_rules: WriteRules, make_request: MakeRequest, earlier: str, later: str
) -> None:
    rules = write_rules(f"""\
rules:
  - {{id: earlier, when: {earlier}, office: plateau, promise_days: 1}}
  - {{id: later, when: {later}, office: obock, promise_days: 1}}
""")
    assert {rule.id for candidates in rules.by_service.values() for rule in candidates} == {"earlier", "later"}


def test_a_condition_without_parts_covers_every_other() -> None:
    narrow = Condition(services=frozenset({"birth"}), zones=frozenset({"arta"}))
    assert Condition().covers(narrow)
    assert not narrow.covers(Condition())


class TestVersion:
    RULES = """\
rules:
  - {id: a, when: {service: [birth, leak], zone: [Arta, Obock]}, office: plateau, promise_days: 1}
  - {id: b, when: {service: passport}, office: obock, promise_days: 2}
  - {id: c, when: {attributes: {x: [1, true], y: z}}, office: obock, promise_days: 2}
"""

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("rules:", "# a comment\nrules:"),
            ("[birth, leak], zone: [Arta, Obock]", "[leak, birth], zone: [obock, ARTA]"),
            ("id: b, when: {service: passport}, office: obock", "office: obock, id: b, when: {service: [passport]}"),
            ("{x: [1, true], y: z}", "{y: z, x: [true, 1]}"),
        ],
    )
    def test_it_stays_when_the_same_is_said_in_other_words(self, write_rules: WriteRules, old: str, new: str) -> None:
        assert old in self.RULES
        assert write_rules(self.RULES.replace(old, new)).version == write_rules(self.RULES).version

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("promise_days: 2", "promise_days: 3"),
            ("office: obock", "office: balbala"),
            ("id: a", "id: d"),
            ("[Arta, Obock]", "[Arta]"),
            ("{service: passport}", "{service: passport, attributes: {urgent: true}}"),
            ("{service: passport}", "{service: passport, language: fr}"),
            ("[1, true]", "[1]"),
        ],
    )
    def test_it_changes_with_what_is_said(self, write_rules: WriteRules, old: str, new: str) -> None:
        assert old in self.RULES
        assert write_rules(self.RULES.replace(old, new)).version != write_rules(self.RULES).version

    def test_it_changes_with_the_order_of_rules(self, write_rules: WriteRules) -> None:
        head, first, second, third = self.RULES.splitlines()
        assert write_rules("\n".join((head, second, first, third))).version != write_rules(self.RULES).version

    def test_it_is_the_same_in_every_process(self, write_rules: WriteRules) -> None:
        values = "[ah, be, ce, de, eh, ef, ge]"
        when = f"{{zone: {values}, attributes: {{x: {values}}}}}"
        rules = write_rules(f"rules: [{{id: a, when: {when}, office: obock, promise_days: 1}}]\n")
        assert rules.version == "3bb8d065873b"

    def test_it_begins_with_the_label_of_the_file(self, write_rules: WriteRules) -> None:
        plain = write_rules(self.RULES).version
        assert len(plain) == 12
        assert write_rules(f'version: "2026-11"\n{self.RULES}').version == f"2026-11+{plain}"


class TestDjibouti:
    @pytest.fixture(scope="class")
    def rules(self) -> Rules:
        return load_rules(DJIBOUTI / "rules.yaml", load_jurisdiction(DJIBOUTI))

    def test_two_services_have_no_office_yet_and_all_others_always_have_one(
        self, rules: Rules, make_request: MakeRequest
    ) -> None:
        unanswered = {code for code in rules.by_service if first_match(rules, make_request(service=code)) is None}
        assert unanswered == {"medical-aid", "street-light"}

    @pytest.mark.parametrize(
        ("request_of", "office", "promise_days"),
        [
            ({"service": "birth-certificate", "zone": "Balbala"}, "balbala", 3),
            ({"service": "birth-certificate", "zone": "Obock"}, "obock", 4),
            ({"service": "birth-certificate"}, "plateau", 2),
            ({"service": "passport", "zone": "Obock"}, "plateau", 10),
            ({"service": "passport", "urgent": True}, "plateau", 2),
            ({"service": "power-outage", "zone": "Dikhil", "site": "hospital"}, "edd", 0),
            ({"service": "power-outage", "zone": "Dikhil"}, "dikhil", 7),
            ({"service": "health-insurance-card", "agency": "sante"}, "cnss", 3),
            ({"service": "vaccination-card", "language": Language.ENGLISH}, "plateau", 1),
        ],
    )
    def test_requests_go_where_a_person_would_send_them(
        self, rules: Rules, make_request: MakeRequest, request_of: dict[str, str], office: str, promise_days: int
    ) -> None:
        rule = rules.first_match(make_request(**request_of).data)
        assert rule is not None
        assert (rule.office.id, rule.promise_days) == (office, promise_days)

    def test_every_office_answers_something(self, rules: Rules) -> None:
        answering = {rule.office.id for candidates in rules.by_service.values() for rule in candidates}
        assert answering == set(load_jurisdiction(DJIBOUTI).offices)
