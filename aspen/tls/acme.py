"""Certificates from an authority that speaks ACME (RFC 8555), for the whole cluster.

The leader orders: it makes a key, asks for the names, and puts the answers to the authority's
challenges (HTTP-01, §8.3) into the replicated settings, from where any node gives them when the
authority comes asking at `/.well-known/acme-challenge/`. Then it puts certificate and key there too,
sealed, and every node takes them up (`shared.py`). The account's key lies there as well, so that the
next leader orders in the same name.

The `acme` library speaks to the authority. It blocks, so each of its calls runs in a thread; it is an
extra (`aspen-dns[acme]`) and imported only when it is used.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from aspen import __version__
from aspen.errors import CertificateError, ProposalError
from aspen.identity import fingerprint
from aspen.limits import (
    ACME_CHECK_MS,
    ACME_ORDER_MS,
    ACME_POLL_MS,
    ACME_REQUEST_MS,
    ACME_RETRY_MAX_MS,
    ACME_RETRY_MIN_MS,
)
from aspen.state.ports import Consistency, Proposer
from aspen.state.settings import SettingDelete, SettingPut
from aspen.tls.certificates import Bundle, key_pem
from aspen.tls.sealed import Box
from aspen.tls.shared import CERTIFICATE, Settings, SharedCertificate, is_due, opened

if TYPE_CHECKING:
    from acme.client import ClientV2
    from acme.messages import AuthorizationResource, OrderResource

log = structlog.get_logger("aspen.tls.acme")

CHALLENGE: Final = "tls/acme-challenge/"
"""Settings under this name hold what to answer, by the challenge's token."""
ACCOUNT: Final = "tls/acme-account/"
"""Settings under this name hold the account's key, sealed, by the authority's fingerprint."""


class Authority(Protocol):
    """What the configuration says of it."""

    @property
    def directory_url(self) -> str: ...
    @property
    def domains(self) -> list[str]: ...
    @property
    def letsencrypt_contact(self) -> str | None: ...
    @property
    def acme_ca_file(self) -> str | None: ...


class AcmeDuty:
    """A duty of the leader: there is a certificate, and it is renewed in time."""

    name = "acme"
    interval_ms = ACME_CHECK_MS

    def __init__(self, authority: Authority, proposer: Proposer, settings: Settings, box: Box) -> None:
        self._authority = authority
        self._domains = [domain.lower().rstrip(".") for domain in authority.domains]
        self._proposer = proposer
        self._settings = settings
        self._box = box
        self._not_before_ms = 0
        self._retry_ms = ACME_RETRY_MIN_MS
        self.failures = 0
        """Orders that came to nothing."""

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        """See `Duty`. What the authority does wrong is logged, and tried again later and later."""
        await self._seal_anew()
        if now_ms < self._not_before_ms or not self._is_due(now_ms / 1_000):
            return False
        log.info("ordering a certificate", authority=self._authority.directory_url, names=self._domains)
        try:
            async with asyncio.timeout(ACME_ORDER_MS / 1_000):
                bundle = await self._order()
        except CertificateError as error:
            self._put_off(now_ms, str(error))
        except ProposalError as error:  # the next order must not follow at once: authorities count them
            self._put_off(now_ms, str(error))
        except TimeoutError:
            self._put_off(now_ms, f"no certificate within {ACME_ORDER_MS // 1_000} seconds")
        else:
            shared = SharedCertificate(self._authority.directory_url, bundle.chain_pem, bundle.key_pem)
            await self._put_sealed(CERTIFICATE, msgspec.msgpack.encode(shared))
            self._retry_ms = ACME_RETRY_MIN_MS
        return False

    async def _seal_anew(self) -> None:
        """While the cluster's cookie is being changed: put what the old one sealed under the new."""
        for name in (CERTIFICATE, self._account_name):
            sealed = self._settings.get(name)
            if sealed is not None and self._box.is_old(name, sealed):
                await self._put_sealed(name, self._box.open(name, sealed))
                log.info("sealed under the new cookie", setting=name)

    @property
    def _account_name(self) -> str:
        return ACCOUNT + fingerprint(self._authority.directory_url.encode())

    def _is_due(self, now_s: float) -> bool:
        sealed = self._settings.get(CERTIFICATE)
        if sealed is None:
            return True
        try:
            stored = opened(self._box, sealed)
        except CertificateError:
            return True
        return is_due(stored, self._authority.directory_url, self._domains, now_s)

    def _put_off(self, now_ms: int, reason: str) -> None:
        self.failures += 1
        self._not_before_ms = now_ms + self._retry_ms
        log.error("no certificate", reason=reason, next_try_s=self._retry_ms // 1_000)
        self._retry_ms = min(2 * self._retry_ms, ACME_RETRY_MAX_MS)

    # --- an order -----------------------------------------------------------------------------

    async def _order(self) -> Bundle:
        """Raises `CertificateError` for whatever goes wrong at the authority."""
        account_key = await self._account_key()
        key = ec.generate_private_key(ec.SECP256R1())
        client = await _calling(_client, self._authority, account_key)
        order = await _calling(client.new_order, _request_for(key, self._domains))
        answers = [answer for one in order.authorizations if (answer := _answer(client, one)) is not None]
        try:
            for name, text, _ in answers:
                await self._proposer.propose(SettingPut(name, text.encode()))
            for _, _, ready in answers:
                await _calling(ready)
            order = await _patiently(client.poll_authorizations, order)
            order = await _calling(client.begin_finalization, order)
            order = await _patiently(client.poll_finalization, order)
        finally:
            for name, _, _ in answers:
                await self._proposer.propose(SettingDelete(name))
        return Bundle.parse(order.fullchain_pem.encode(), key_pem(key))

    async def _account_key(self) -> bytes:
        """The account's key in PEM, made by whichever leader comes first."""
        name = self._account_name
        if self._settings.get(name) is None:
            made = key_pem(ec.generate_private_key(ec.SECP256R1()))
            await self._put_sealed(name, made, only_if_absent=True)
            await self._proposer.barrier(Consistency.CONSISTENT)
        sealed = self._settings.get(name)
        if sealed is None:
            raise CertificateError("the account's key was not stored")
        return self._box.open(name, sealed)

    async def _put_sealed(self, name: str, value: bytes, *, only_if_absent: bool = False) -> None:
        await self._proposer.propose(SettingPut(name, self._box.seal(name, value), only_if_absent))


# --- the acme library -------------------------------------------------------------------------


async def _calling(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call of the library, in a thread. Raises `CertificateError`."""
    import acme.errors
    import acme.messages
    import josepy.errors
    import requests

    try:
        return await asyncio.to_thread(function, *arguments)
    except acme.errors.TimeoutError:
        raise
    except (
        acme.errors.Error,
        acme.messages.Error,
        josepy.errors.Error,
        requests.exceptions.RequestException,
        ValueError,
        KeyError,
    ) as error:
        raise CertificateError(f"ACME: {type(error).__name__}: {_reason(error)}") from None


async def _patiently(poll: Callable[..., Any], order: OrderResource) -> Any:
    """Poll by short calls, since a thread can't be interrupted. The caller has a timeout."""
    import acme.errors

    while True:
        deadline = datetime.datetime.now() + datetime.timedelta(milliseconds=ACME_POLL_MS)
        try:
            return await _calling(poll, order, deadline)
        except acme.errors.TimeoutError:
            await asyncio.sleep(ACME_POLL_MS / 1_000)


def _reason(error: Exception) -> str:
    """What the authority says is wrong, where it says it."""
    failed = getattr(error, "failed_authzrs", ())
    details = [
        str(challenge.error.detail)
        for authorization in failed
        for challenge in authorization.body.challenges
        if challenge.error is not None
    ]
    return "; ".join(details) or str(error)[:500]


def _client(authority: Authority, account_key: bytes) -> ClientV2:
    """A client with its account. Blocks."""
    import acme.client
    import acme.errors
    import acme.messages
    import josepy.jwa
    import josepy.jwk

    network = acme.client.ClientNetwork(
        josepy.jwk.JWK.load(account_key),
        alg=josepy.jwa.ES256,
        verify_ssl=authority.acme_ca_file or True,  # type: ignore[arg-type]  # handed on to requests
        user_agent=f"aspen/{__version__}",
        timeout=ACME_REQUEST_MS // 1_000,
    )
    directory = acme.client.ClientV2.get_directory(authority.directory_url, network)
    client = acme.client.ClientV2(directory, network)
    contact = (authority.letsencrypt_contact or "").removeprefix("mailto:")
    wanted = acme.messages.NewRegistration.from_data(email=contact or None, terms_of_service_agreed=True)
    try:
        client.new_account(wanted)
    except acme.errors.ConflictError as error:  # there is one, under this key
        known = acme.messages.RegistrationResource(body=wanted, uri=error.location)
        client.query_registration(known)
    return client


def _answer(
    client: ClientV2, authorization: AuthorizationResource
) -> tuple[str, str, Callable[[], Any]] | None:
    """The setting that answers an authorization's challenge, its value, and how to tell the authority
    that it is there. None if the authority knows already that the name is ours."""
    import acme.challenges
    import acme.messages

    if authorization.body.status == acme.messages.STATUS_VALID:
        return None
    for body in authorization.body.challenges:
        if isinstance(body.chall, acme.challenges.HTTP01):
            response, validation = body.response_and_validation(client.net.key)
            token = body.chall.encode("token")
            return CHALLENGE + token, validation, partial(client.answer_challenge, body, response)
    raise CertificateError(f"ACME: no http-01 challenge for {authorization.body.identifier.value}")


def _request_for(key: ec.EllipticCurvePrivateKey, domains: Sequence[str]) -> bytes:
    """A certificate signing request (RFC 2986) in PEM."""
    import acme.crypto_util

    return acme.crypto_util.make_csr(key_pem(key), domains=list(domains))
