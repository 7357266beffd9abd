"""The service over https, with a certificate that the test makes."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.live_service import SHOP_KEY, LiveService, live_service, make_home
from contracts.errors import SettingsError, UnavailableError
from contracts.settings import Settings, load_settings
from flows.traffic import ask
from services.serve import serve_environment, service_url, tls_files, trusted
from tests.services.conftest import Shop


def make_certificate(folder: Path, name: str) -> dict[str, str]:
    """Make a self-signed certificate for shop.example and its key; return the settings."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop.example")])
    now = datetime.now(UTC)
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("shop.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    told = {"tls_certificate": folder / f"{name}.pem", "tls_key": folder / f"{name}.key"}
    pem = serialization.Encoding.PEM
    told["tls_certificate"].write_bytes(certificate.public_bytes(pem))
    plain, traditional = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    told["tls_key"].write_bytes(key.private_bytes(pem, traditional, plain))
    return {setting: str(path) for setting, path in told.items()}


def settings_of(home: Path, told: dict[str, str]) -> Settings:
    config = home / "tls.toml"
    config.write_text("\n".join(["[service]", *(f'{k} = "{v}"' for k, v in told.items()), ""]))
    return load_settings(config, home=home)


@pytest.fixture(scope="module")
def secure(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    home = make_home(tmp_path_factory.mktemp("tls"), (shop.blend,))
    options: dict[str, Any] = make_certificate(home, "own")
    with live_service(home, options=options, tls=True) as service:
        yield service


@pytest.mark.slow
def test_the_service_speaks_https_alone(secure: LiveService) -> None:
    with secure.client(verify=trusted(secure.settings)) as client:
        answer = client.post("/v1/recommend", json={"k": 3})
    assert (answer.status_code, len(answer.json()["items"])) == (200, 3)
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.url.replace("https", "http") + "/healthz")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secure.url}/healthz")


@pytest.mark.slow
def test_our_own_commands_trust_that_certificate_and_no_other(
    secure: LiveService, tmp_path: Path
) -> None:
    assert len(ask(secure.settings, {"k": 2}, key=SHOP_KEY)["items"]) == 2
    other = secure.settings.service.model_copy(update=make_certificate(tmp_path, "other"))
    impostor = secure.settings.model_copy(update={"service": other})
    with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(impostor, {"k": 2}, key=SHOP_KEY)


def test_without_a_certificate_it_is_http(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {})
    assert service_url(settings).startswith("http://")
    assert trusted(settings) is True
    assert "ssl" not in serve_environment(settings)["BENTOML_CONFIG_OVERRIDES"]


def test_a_certificate_that_does_not_fit_is_refused_before_the_start(tmp_path: Path) -> None:
    one, other = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "other")
    assert tls_files(settings_of(tmp_path, one))[0] == Path(one["tls_certificate"])
    assert isinstance(trusted(settings_of(tmp_path, one)), ssl.SSLContext)
    for told in (
        {**one, "tls_key": other["tls_key"]},
        {**one, "tls_key": str(tmp_path / "none")},
        {**one, "tls_certificate": one["tls_key"]},
    ):
        with pytest.raises(SettingsError, match="cannot be used"):
            serve_environment(settings_of(tmp_path, told))
    with pytest.raises(SettingsError, match="go together"):
        settings_of(tmp_path, {"tls_key": one["tls_key"]})
