"""The wiring of the notify service."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from starlette.applications import Starlette

from services.notify.backlog import Backlog, Desk
from services.notify.handlers import plan
from services.notify.lane import Lane
from services.notify.ledger import TAKE_LEASE, Ledger
from services.notify.outcomes import Outcomes
from services.notify.ports import M, Mail, Provider, ShortMessage
from services.notify.providers.smpp import Accept, SmppProvider
from services.notify.providers.smtp import SmtpProvider
from services.notify.rate import TokenBucket
from services.notify.receipts import LEASE, Receipts, References
from services.notify.rendering import load_templates
from services.notify.sender import Sender
from services.notify.settings import NotifySettings, SmppSettings, SmtpSettings
from services.notify.shortcut import Shortcut
from services.notify.watchdog import Watchdog
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import Channel
from shared.jurisdiction import Jurisdiction, load_jurisdiction
from shared.metrics import NotifyMetrics
from shared.service import Service
from shared.store.port import Store


def build_app(
    settings: NotifySettings | None = None, *, clock: Clock | None = None, store: Store | None = None
) -> Starlette:
    """The service as an ASGI application; ConfigError if the jurisdiction's files or the templates are wrong."""
    settings = settings or NotifySettings()
    service = Service("notify", settings, clock=clock, store=store)
    jurisdiction = load_jurisdiction(settings.jurisdiction_dir)
    templates = load_templates()
    metrics = NotifyMetrics(service.registry)
    sms_rows = service.store.collection("notifications_sms")
    mail_rows = service.store.collection("notifications_email")
    receipt_rows = service.store.collection("receipts")
    sms = Ledger(Shortcut(sms_rows, lease=TAKE_LEASE, clock=service.clock))
    mail = Ledger(Shortcut(mail_rows, lease=TAKE_LEASE, clock=service.clock))
    unreachable = Ledger(service.store.collection("notifications_unreachable"))
    references = References(service.store.collection("provider_references"))
    outcomes = partial(
        Outcomes,
        publisher=service.publisher,
        clock=service.clock,
        metrics=metrics,
        failpoints=service.failpoints,
    )
    sms_outcomes = outcomes(Channel.SMS, ledger=sms, other=mail)
    mail_outcomes = outcomes(Channel.EMAIL, ledger=mail, other=sms)
    receipts = Receipts(
        collection=Shortcut(receipt_rows, lease=LEASE, clock=service.clock),
        references=references,
        ledger=sms,
        outcomes=sms_outcomes,
        clock=service.clock,
        metrics=metrics,
    )
    sender = partial(
        Sender,
        references=references,
        receipt_window=timedelta(seconds=settings.receipt_window_seconds),
        clock=service.clock,
        metrics=metrics,
        failpoints=service.failpoints,
    )
    sms_lanes = [
        smpp_lane(name, wanted, jurisdiction, receipts.accept, service)
        for name, wanted in (("smpp", settings.smpp), ("smpp2", settings.smpp2))
        if wanted
    ]
    mail_lanes = [
        smtp_lane(name, wanted, jurisdiction, service)
        for name, wanted in (("smtp", settings.smtp), ("smtp2", settings.smtp2))
        if wanted
    ]
    sms_sender = sender(ledger=sms, lanes=sms_lanes, compose=templates.short_message, outcomes=sms_outcomes)
    mail_sender = sender(ledger=mail, lanes=mail_lanes, compose=templates.mail, outcomes=mail_outcomes)
    backlog = Backlog(
        (Desk(sms, sms_outcomes), Desk(mail, mail_outcomes)),
        fallback_after=timedelta(seconds=settings.fallback_after_seconds),
        clock=service.clock,
        metrics=metrics,
    )
    service.consume(
        (topics.ACCEPTED, topics.ASSIGNED, topics.UPDATED),
        partial(
            plan,
            jurisdiction=jurisdiction,
            templates=templates,
            ledgers={Channel.SMS: sms, Channel.EMAIL: mail, None: unreachable},
            clock=service.clock,
            metrics=metrics,
        ),
    )
    sms_reachable = partial(any_of, [lane.provider for lane in sms_lanes])
    mail_reachable = partial(any_of, [lane.provider for lane in mail_lanes])
    watchdog = Watchdog(service.clock)
    watchdog.watch("short messages", sms_rows, possible=sms_reachable)
    watchdog.watch("mails", mail_rows, possible=mail_reachable)
    watchdog.watch("receipts", receipt_rows)
    service.run_beside("sms", sms_sender.run)
    service.run_beside("mail", mail_sender.run)
    service.run_beside("receipts", receipts.run)
    service.run_beside("backlog", backlog.run)
    service.check("smsc", sms_reachable)
    service.check("smtp", mail_reachable)
    service.run_beside("watchdog", watchdog.run)
    service.watch("watchdog", watchdog.stuck)
    return service.app()


def smpp_lane(
    name: str, wanted: SmppSettings, jurisdiction: Jurisdiction, accept: Accept, service: Service
) -> Lane[ShortMessage]:
    """An SMSC as the settings describe it."""
    provider = SmppProvider(
        name=name,
        host=wanted.host,
        port=wanted.port,
        system_id=wanted.system_id,
        password=wanted.password.get_secret_value(),
        sender=jurisdiction.sms_sender,
        window=wanted.window,
        accept=accept,
        clock=service.clock,
        failpoints=service.failpoints,
    )
    return Lane(provider, TokenBucket(wanted.per_second, service.clock), wanted.weight)


def smtp_lane(name: str, wanted: SmtpSettings, jurisdiction: Jurisdiction, service: Service) -> Lane[Mail]:
    """A mail server as the settings describe it."""
    provider = SmtpProvider(
        name=name,
        host=wanted.host,
        port=wanted.port,
        mail_from=jurisdiction.mail_from,
        sender_name=jurisdiction.name,
        connections=wanted.connections,
        clock=service.clock,
        failpoints=service.failpoints,
        username=wanted.username,
        password=wanted.password.get_secret_value() if wanted.password else None,
        starttls=wanted.starttls,
    )
    return Lane(provider, TokenBucket(wanted.per_second, service.clock), wanted.weight)


async def any_of(providers: Sequence[Provider[M]]) -> None:
    """Return if one of a channel's providers can be reached; if none can, raise what the first of them says."""
    if not any(provider.connected for provider in providers):
        await providers[0].check()
