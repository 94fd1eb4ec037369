"""The wiring of the notify service."""

from functools import partial

from starlette.applications import Starlette

from services.notify.backlog import Backlog
from services.notify.handlers import plan
from services.notify.ledger import Ledger
from services.notify.providers.smpp import SmppProvider
from services.notify.providers.smtp import SmtpProvider
from services.notify.rate import TokenBucket
from services.notify.receipts import Receipts, References
from services.notify.rendering import load_templates
from services.notify.sender import Sender
from services.notify.settings import NotifySettings
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import Channel
from shared.jurisdiction import load_jurisdiction
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
    sms = Ledger(service.store.collection("notifications_sms"))
    mail = Ledger(service.store.collection("notifications_email"))
    unreachable = Ledger(service.store.collection("notifications_unreachable"))
    references = References(service.store.collection("provider_references"))
    receipts = Receipts(
        collection=service.store.collection("receipts"),
        references=references,
        ledger=sms,
        publisher=service.publisher,
        clock=service.clock,
        metrics=metrics,
    )
    smpp = SmppProvider(
        host=settings.smpp_host,
        port=settings.smpp_port,
        system_id=settings.smpp_system_id,
        password=settings.smpp_password.get_secret_value(),
        sender=jurisdiction.sms_sender,
        window=settings.smpp_window,
        accept=receipts.accept,
        clock=service.clock,
    )
    smtp = SmtpProvider(
        host=settings.smtp_host,
        port=settings.smtp_port,
        mail_from=jurisdiction.mail_from,
        sender_name=jurisdiction.name,
        window=settings.smtp_connections,
        clock=service.clock,
        username=settings.smtp_username,
        password=settings.smtp_password.get_secret_value() if settings.smtp_password else None,
        starttls=settings.smtp_starttls,
    )
    sms_sender = Sender(
        ledger=sms,
        provider=smpp,
        compose=templates.short_message,
        references=references,
        rate=TokenBucket(settings.sms_per_second, service.clock),
        publisher=service.publisher,
        clock=service.clock,
        metrics=metrics,
    )
    mail_sender = Sender(
        ledger=mail,
        provider=smtp,
        compose=templates.mail,
        references=references,
        rate=TokenBucket(settings.mails_per_second, service.clock),
        publisher=service.publisher,
        clock=service.clock,
        metrics=metrics,
    )
    service.consume(
        (topics.ACCEPTED, topics.ASSIGNED, topics.UPDATED),
        partial(
            plan,
            jurisdiction=jurisdiction,
            versions=templates.versions,
            ledgers={Channel.SMS: sms, Channel.EMAIL: mail, None: unreachable},
            clock=service.clock,
            metrics=metrics,
        ),
    )
    service.run_beside("sms", sms_sender.run)
    service.run_beside("mail", mail_sender.run)
    service.run_beside("receipts", receipts.run)
    service.run_beside("backlog", Backlog((sms, mail), service.clock, metrics).run)
    service.check("smsc", smpp.check)
    service.check("smtp", smtp.check)
    return service.app()
