"""Settings from the environment: defaults, every error at once, no secret repeated, README in step."""

import base64
import os
import re
import stat
from pathlib import Path

import pytest

from gateway.master_key import FILE_NAME, master_key
from gateway.settings import (
    SETTINGS,
    InvalidSettings,
    Settings,
    markdown,
    read_settings,
    unknown_variables,
    variable,
)

README = Path(__file__).parent.parent.parent / "README.md"
KEY = bytes(range(32))


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set, and an empty variable counts as absent."""
    assert read_settings({}) == Settings()
    assert read_settings({variable(field): " " for field in SETTINGS}) == Settings()


def test_each_variable_sets_its_field() -> None:
    """Every setting can be set to something other than its default, and arrives as its type."""
    environ = {
        "MIJRA_DATA_DIR": "/srv/mijra",
        "MIJRA_DATABASE_URL": "postgresql://app:pw@db:5432/postgres",
        "MIJRA_DATABASE_PREFIX": "staging",
        "MIJRA_DB_CONNECTIONS_MAX": "80",
        "MIJRA_PLACEMENT": "Pooled",
        "MIJRA_HOST": "::",
        "MIJRA_PORT": "0",
        "MIJRA_OPERATOR_HOST": "10.0.0.1",
        "MIJRA_OPERATOR_PORT": "9191",
        "MIJRA_LISTEN": "smtp=0.0.0.0:25, other=[::1]:0",
        "MIJRA_TLS_CERTIFICATE": "/etc/mijra/chain.pem",
        "MIJRA_TLS_KEY": "/etc/mijra/key.pem",
        "MIJRA_PUBLIC_URL": "https://chat.example.com/",
        "MIJRA_MASTER_KEY": base64.b64encode(KEY).decode(),
        "MIJRA_LOG_LEVEL": "debug",
        "MIJRA_LOG_FORMAT": "json",
        "MIJRA_OBJECT_STORE_URL": "s3://bucket/media",
        "MIJRA_MEDIA_BYTES_MAX": "1000",
        "MIJRA_WEBHOOK_BYTES_MAX": "5000000",
        "MIJRA_WEBHOOK_LANE": "OFF",
        "MIJRA_PUSH_LANE": "OFF",
        "MIJRA_BODY_BYTES_MAX": "2048",
        "MIJRA_TRUSTED_PROXIES": "10.0.0.0/8",
        "MIJRA_REQUEST_SECONDS_MAX": "12.5",
        "MIJRA_ALLOW_PRIVATE_MEDIA_HOSTS": "127.0.0.1:9000, [::1]:9001",
        "MIJRA_ALLOW_SERVER_PORTS": "10025, 10143",
        "MIJRA_WS_ORIGINS": "https://inbox.example.com,http://localhost:3000",
        "MIJRA_RESIDENT_CONVERSATIONS_MAX": "500",
        "MIJRA_IDLE_SECONDS": "60",
        "MIJRA_OUTBOUND_UNKNOWN_WAIT_SECONDS": "0",
        "MIJRA_STOP_SECONDS_MAX": "5",
    }
    expected = Settings(
        data_dir=Path("/srv/mijra"),
        database_url="postgresql://app:pw@db:5432/postgres",
        database_prefix="staging",
        db_connections_max=80,
        placement="pooled",
        host="::",
        port=0,
        operator_host="10.0.0.1",
        operator_port=9191,
        listen={"smtp": ("0.0.0.0", 25), "other": ("::1", 0)},
        tls_certificate=Path("/etc/mijra/chain.pem"),
        tls_key=Path("/etc/mijra/key.pem"),
        public_url="https://chat.example.com",
        master_key=KEY,
        log_level="debug",
        log_format="json",
        object_store_url="s3://bucket/media",
        media_bytes_max=1000,
        webhook_bytes_max=5_000_000,
        webhook_lane="off",
        push_lane="off",
        body_bytes_max=2048,
        trusted_proxies=("10.0.0.0/8",),
        request_seconds_max=12.5,
        allow_private_media_hosts=("127.0.0.1:9000", "[::1]:9001"),
        allow_server_ports=(10025, 10143),
        ws_origins=("https://inbox.example.com", "http://localhost:3000"),
        resident_conversations_max=500,
        idle_seconds=60.0,
        outbound_unknown_wait_seconds=0.0,
        stop_seconds_max=5.0,
    )
    assert set(environ) == {variable(field) for field in SETTINGS}, "a new setting belongs in this test"
    assert read_settings(environ) == expected
    for field in SETTINGS:
        assert getattr(expected, field) != getattr(Settings(), field)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MIJRA_PORT", "eighty"),
        ("MIJRA_PORT", "65536"),
        ("MIJRA_PORT", "-1"),
        ("MIJRA_HOST", "http://0.0.0.0"),
        ("MIJRA_HOST", "0.0.0.0:80"),
        ("MIJRA_DATABASE_URL", "mysql://x"),
        ("MIJRA_DATABASE_URL", "postgresql://[broken"),
        ("MIJRA_DATABASE_PREFIX", 'x"; drop'),
        ("MIJRA_DATABASE_PREFIX", "x" * 33),
        ("MIJRA_PUBLIC_URL", "chat.example.com"),
        ("MIJRA_PUBLIC_URL", "https://[broken"),
        ("MIJRA_MASTER_KEY", "short"),
        ("MIJRA_MASTER_KEY", base64.b64encode(bytes(31)).decode()),
        ("MIJRA_LOG_LEVEL", "loud"),
        ("MIJRA_OBJECT_STORE_URL", "memory:///"),
        ("MIJRA_OBJECT_STORE_URL", "/var/objects"),
        ("MIJRA_MEDIA_BYTES_MAX", "1e6"),
        ("MIJRA_REQUEST_SECONDS_MAX", "nan"),
        ("MIJRA_REQUEST_SECONDS_MAX", "0"),
        ("MIJRA_ALLOW_PRIVATE_MEDIA_HOSTS", "127.0.0.1"),
        ("MIJRA_ALLOW_SERVER_PORTS", "10025,smtp"),
        ("MIJRA_ALLOW_SERVER_PORTS", "65536"),
        ("MIJRA_WS_ORIGINS", "inbox.example.com"),
        ("MIJRA_WS_ORIGINS", "https://inbox.example.com/page"),
        ("MIJRA_DB_CONNECTIONS_MAX", "1"),
        ("MIJRA_LISTEN", "0.0.0.0:25"),
        ("MIJRA_LISTEN", "smtp=25"),
        ("MIJRA_LISTEN", "smtp=0.0.0.0:70000"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, text: str) -> None:
    """The refusal stands under the variable's name and says what would be right."""
    with pytest.raises(InvalidSettings) as refusal:
        read_settings({name: text})
    assert list(refusal.value.fields) == [name]
    [sentence] = refusal.value.fields[name]
    assert sentence.startswith(f"{name} must ")
    assert sentence in refusal.value.message


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Three mistakes cost one attempt, not three."""
    with pytest.raises(InvalidSettings) as refusal:
        read_settings({"MIJRA_PORT": "x", "MIJRA_LOG_LEVEL": "y", "MIJRA_IDLE_SECONDS": "z"})
    assert set(refusal.value.fields) == {"MIJRA_PORT", "MIJRA_LOG_LEVEL", "MIJRA_IDLE_SECONDS"}
    assert len(refusal.value.message.splitlines()) == 4


def test_one_address_for_both_ports_is_refused() -> None:
    """The operator port may not be the public one; two free ports (0) may look alike."""
    with pytest.raises(InvalidSettings, match="MIJRA_OPERATOR_PORT must differ from MIJRA_PORT"):
        read_settings({"MIJRA_PORT": "9000", "MIJRA_OPERATOR_PORT": "9000"})
    read_settings({"MIJRA_PORT": "0", "MIJRA_OPERATOR_PORT": "0"})
    read_settings({"MIJRA_PORT": "9000", "MIJRA_OPERATOR_PORT": "9000", "MIJRA_HOST": "10.0.0.1"})


def test_a_kubernetes_service_link_is_recognised() -> None:
    """A Service named mijra sets MIJRA_PORT in every pod; the refusal says how to switch that off."""
    with pytest.raises(InvalidSettings, match="enableServiceLinks"):
        read_settings({"MIJRA_PORT": "tcp://10.3.0.17:8080"})


def test_a_refused_secret_is_not_repeated() -> None:
    """What was given as a key or database URL appears nowhere in the refusal."""
    with pytest.raises(InvalidSettings) as refusal:
        read_settings({"MIJRA_MASTER_KEY": "hunter2-key", "MIJRA_DATABASE_URL": "mysql://u:hunter2@db"})
    assert "hunter2" not in refusal.value.message + repr(refusal.value.fields)


def test_the_representation_hides_secrets() -> None:
    """Settings may end up in a log or a traceback without giving anything away."""
    shown = repr(Settings(master_key=b"hunter2" + bytes(25), database_url="postgresql://u:hunter2@db"))
    assert "hunter2" not in shown
    assert "port=8080" in shown


def test_a_misspelt_variable_is_pointed_out_and_nothing_more() -> None:
    """A typo is told with the likely meaning, but does not keep the server from starting."""
    environ = {"MIJRA_PROT": "80", "MIJRA_SOMETHING_ELSE": "1", "HOME": "/root"}
    assert unknown_variables(environ) == [
        "MIJRA_PROT is not a setting; did you mean MIJRA_PORT?",
        "MIJRA_SOMETHING_ELSE is not a setting; it has no effect",
    ]
    assert read_settings(environ) == Settings()


def test_the_readme_lists_the_settings_as_they_are() -> None:
    """The README's table is the one that `python -m gateway.settings --markdown` prints."""
    found = re.search(
        r"<!-- settings: .*? -->\n(.*?)<!-- /settings -->", README.read_text("utf-8"), re.DOTALL
    )
    assert found is not None, "README.md has no settings markers"
    assert found.group(1) == markdown()


def test_the_object_store_defaults_to_the_data_directory(tmp_path: Path) -> None:
    """Without a URL, media lands in `objects` under the data directory."""
    assert Settings(data_dir=tmp_path).object_store == (tmp_path / "objects").as_uri()
    assert Settings(object_store_url="s3://b").object_store == "s3://b"


def test_a_master_key_is_generated_once_and_kept(tmp_path: Path) -> None:
    """The first start writes a key that only its owner reads; later ones find the same."""
    settings = Settings(data_dir=tmp_path / "new" / "data")
    first = master_key(settings)
    file = settings.data_dir / FILE_NAME
    assert len(first) == 32
    assert master_key(settings) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in settings.data_dir.iterdir()] == [FILE_NAME], "a draft was left behind"


def test_a_key_from_the_environment_touches_no_file(tmp_path: Path) -> None:
    """A key that is given is used as it is."""
    assert master_key(Settings(data_dir=tmp_path, master_key=KEY)) == KEY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"not base64!", base64.b64encode(bytes(16)), b"\xff\xfe"])
def test_a_damaged_key_file_is_refused_and_left_alone(content: bytes, tmp_path: Path) -> None:
    """A broken key is never replaced by a new one: the credentials encrypted with the old would be lost."""
    file = tmp_path / FILE_NAME
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(InvalidSettings, match=re.escape(str(file))):
        master_key(Settings(data_dir=tmp_path))
    assert file.read_bytes() == content


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The refusal names the file and the command that mends it."""
    settings = Settings(data_dir=tmp_path)
    master_key(settings)
    (tmp_path / FILE_NAME).chmod(0o644)
    with pytest.raises(InvalidSettings, match="chmod 600"):
        master_key(settings)


def test_two_first_starts_end_up_with_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that loses the race uses the winner's key, not its own."""
    settings = Settings(data_dir=tmp_path)
    real_link = os.link

    def lose_the_race(source: Path, target: Path) -> None:
        target.write_bytes(base64.b64encode(KEY))
        target.chmod(0o600)
        real_link(source, target)

    monkeypatch.setattr(os, "link", lose_the_race)
    assert master_key(settings) == KEY


@pytest.mark.parametrize("text", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8"])
def test_proxies_are_addresses_or_networks(text: str) -> None:
    """A name could become anybody's, and host bits are a slip of the pen."""
    with pytest.raises(InvalidSettings):
        read_settings({"MIJRA_TRUSTED_PROXIES": text})
    good = read_settings({"MIJRA_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::1"})
    assert good.trusted_proxies == ("10.0.0.0/8", "2001:db8::1")
