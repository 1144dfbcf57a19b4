"""Keys: made and revoked on the command line, and what a real gateway lets each of them do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.adapters import adapter
from support.command import Done, run_command
from support.gateway import Answered, RunningGateway, gateway_of, running_node
from support.models import CHAT_TEMPLATE, slow_model, tiny_model

SECONDS = 20.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
BEGINNING = "sk-suite-"


class Place(NamedTuple):
    """A gateway that lets in only who has a key, and the command line of its operator."""

    gateway: RunningGateway
    data_dir: Path
    secrets: list[str]

    def suite(self, *arguments: str) -> Done:
        return run_command(*arguments, "--data-dir", str(self.data_dir))

    def document(self, *arguments: str) -> Any:
        done = self.suite(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def create(self, *arguments: str) -> str:
        """Make a key, and wait until the gateway knows it."""
        secret: str = self.document("keys", "create", *arguments)["secret"]
        self.secrets.append(secret)
        eventually(lambda: self.code(self.models(secret)) != "invalid_api_key")
        return secret

    def models(self, secret: str) -> Answered:
        return self.gateway.get("/v1/models", bearer(secret))

    def chat(self, secret: str, **more: object) -> Answered:
        return self.gateway.post("/v1/chat/completions", CHAT | more, bearer(secret))

    @staticmethod
    def code(answer: Answered) -> str | None:
        code: str | None = None if answer.status == 200 else answer.error["code"]
        return code


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("keys")
    data, models = directory / "data", directory / "models"
    models.mkdir()
    for name in ("tiny", "other"):
        tiny_model(models / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
    slow_model(models / "slow.gguf")
    config = directory / "suite.toml"
    adapter(models / "pirate.gguf", models / "tiny.gguf")
    config.write_text(
        '[models.tiny]\naliases = ["nick"]\n[models.other]\naliases = ["tony"]\n'
        '[models.pirate]\nbase = "tiny"\n'
    )
    with running_node(models, data, "--config", str(config)):
        where = ("--data-dir", str(data))
        refused = run_command("gateway", "--listen", "0.0.0.0:0", *where)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error keys_missing: ")
        assert "suite keys create NAME" in refused.stderr
        early = run_command("keys", "create", "early", "--expires", "30d", *where).stdout.strip()
        with gateway_of(data, "--require-keys") as gateway:
            place = Place(gateway, data, [early])
            assert place.models(early).status == 200
            yield place
        logs = "".join(log.read_text() for log in data.glob("*.log"))
        assert "suite" in logs
        assert BEGINNING not in logs


def test_only_who_has_a_key_is_let_in_and_all_may_look_whether_it_lives(place: Place) -> None:
    (secret, *_) = place.secrets
    for headers in (
        {},
        {"Authorization": secret},
        bearer(""),
        bearer("x"),
        bearer(secret[:-1]),
        {"x-api-key": "ä"},
    ):
        answer = place.gateway.get("/v1/models", headers)
        assert (answer.status, place.code(answer)) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.error["type"] == "authentication_error"
    for headers in (
        {"x-api-key": secret},
        {"authorization": f"bearer {secret}"},
        {"x-api-key": secret, **bearer("of another service")},
        {"x-api-key": "of another service", **bearer(secret)},
    ):
        assert place.gateway.get("/v1/models", headers).status == 200
    for path in ("/", "/livez", "/health", "/openapi.json"):
        assert place.gateway.get(path).status == 200
    assert place.gateway.get("/nothing", bearer(secret)).status == 403, "a path is for admins until it is not"


def test_a_key_is_shown_once_and_what_is_known_of_it_as_long_as_it_is_there(place: Place) -> None:
    made = place.suite(
        "keys", "create", "once", "--model", "ti*", "--endpoint", "chat", "--tokens-per-minute", "9"
    )
    secret = made.stdout.strip()
    assert made.stdout == f"{secret}\n"
    assert secret.startswith(BEGINNING)
    assert len(secret) == len(BEGINNING) + 43, "256 bits in base64"
    listed = {key["name"]: key for key in place.document("keys", "list")["keys"]}
    assert listed["once"] | {"key_id": "", "created_at": ""} == {
        "key_id": "",
        "name": "once",
        "models": ["ti*"],
        "endpoints": ["chat"],
        "requests_per_minute": None,
        "tokens_per_minute": 9,
        "created_at": "",
        "expires_at": None,
        "expired": False,
    }
    assert listed["early"]["expires_at"] > listed["early"]["created_at"]
    assert "admin" not in listed["early"]["endpoints"]
    assert "once" in place.suite("keys").stdout
    events = place.suite("events", "--filter", "key", "--json").stdout
    assert listed["once"]["key_id"] in events
    assert secret not in events + place.suite("keys", "--json").stdout
    again = place.suite("keys", "create", "once")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error key_exists: ")
    for wrong in (
        ["a b"],
        ["x", "--expires", "2020-01-01"],
        ["x", "--expires", "soon"],
        ["x", "--endpoint", "y"],
    ):
        assert place.suite("keys", "create", *wrong).stderr.startswith(("error invalid_request: ", "Usage: "))
    assert place.suite("keys", "revoke", "once").returncode == 0
    assert place.suite("keys", "revoke", "once").stderr.startswith("error key_not_found: ")


def test_a_key_may_do_what_it_was_made_for(place: Place) -> None:
    secret = place.create("narrow", "--model", "t?ny", "--endpoint", "chat", "--endpoint", "models")
    assert place.chat(secret).status == 200
    for answer in (
        place.chat(secret, model="other"),
        place.gateway.post("/v1/completions", {"model": "tiny", "prompt": "a"}, bearer(secret)),
        place.gateway.get("/v1/models/other", bearer(secret)),
        place.gateway.get("/metrics", bearer(secret)),
    ):
        assert (answer.status, place.code(answer)) == (403, "key_not_permitted")
        assert answer.error["type"] == "permission_error"
    assert [each["id"] for each in place.models(secret).document["data"]] == ["tiny"]
    admin = place.create("admin", "--endpoint", "admin")
    assert place.gateway.get("/metrics", bearer(admin)).status == 200


def test_a_key_for_looking_changes_and_generates_nothing(place: Place) -> None:
    viewer = bearer(place.create("viewer", "--endpoint", "view"))
    assert place.gateway.post("/ui/ask/health_check", {}, viewer).status == 200
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}
    for path, body in (
        ("/ui/do/unload_model", {"model_id": "tiny"}),
        ("/ui/do/unload_model/", {"model_id": "tiny"}),
        ("/ui%2Fdo%2Funload_model", {"model_id": "tiny"}),
        ("/ui/chat", chat),
        ("/v1/chat/completions", chat),
        ("/v1/messages", chat),
        ("/api/chat", chat),
    ):
        answer = place.gateway.post(path, body, viewer)
        assert answer.status == 403, path
        assert b"key_not_permitted" in answer.body, path
    for path in ("/v1/models", "/api/tags", "/metrics"):
        assert place.gateway.get(path, viewer).status == 403, path
    assert place.gateway.get("/ui/live").status == place.gateway.post("/ui/do/unload_model", {}).status == 401


def test_a_key_learns_nothing_of_models_that_it_may_not_use(place: Place) -> None:
    secret = place.create("curious", "--model", "t?ny", "--endpoint", "chat", "--endpoint", "models")
    assert place.chat(secret, model="nick").document["model"] == "tiny", "an alias of what the key may use"
    for name in ("othe", "other"):
        refused = place.chat(secret, model=name)
        assert (refused.status, place.code(refused)) == (403, "key_not_permitted")
        assert "x-suite-model-digest" not in refused.headers
    for answer in (
        place.chat(secret, model="tony"),
        place.chat(secret, model="tyny"),
        place.gateway.get("/v1/models/tony", bearer(secret)),
        place.gateway.post("/api/show", {"name": "tony"}, bearer(secret)),
    ):
        assert answer.status == 404
        assert b"other" not in answer.body
        assert b"tiny" not in answer.body
        assert "x-suite-model-digest" not in answer.headers
    assert place.gateway.post("/api/show", {"name": "nick"}, bearer(secret)).status == 200


def test_an_adapter_is_a_model_in_every_dialect_and_for_keys(place: Place) -> None:
    (all_models, *_), with_it = place.secrets, place.create("with", "--model", "pirate")
    without = place.create("without", "--model", "tiny")
    message = [{"role": "user", "content": "a"}]
    for path, more in (
        ("/v1/chat/completions", {"max_tokens": 2}),
        ("/v1/messages", {"max_tokens": 2}),
        ("/api/chat", {"stream": False, "options": {"num_predict": 2}}),
    ):
        asked = {"model": "pirate", "messages": message, **more}
        assert place.gateway.post(path, asked, bearer(with_it)).status == 200
        assert place.gateway.post(path, asked, bearer(without)).status == 403
    adapters: list[Any] = ["pirate", ["pirate"], [{"id": "pirate", "scale": 0.5}]]
    for each in adapters:
        assert place.chat(all_models, adapters=each).status == 200
        refused = place.chat(without, adapters=each)
        assert (refused.status, place.code(refused)) == (403, "key_not_permitted")
    unknown = place.chat(all_models, adapters="buccaneer")
    assert (unknown.status, place.code(unknown)) == (404, "adapter_not_found")
    assert place.chat(all_models, adapters=[{"scale": 1}]).status == 400
    (listed,) = place.models(with_it).document["data"]
    assert (listed["id"], listed["architecture"]) == ("pirate", "llama")


def test_what_changes_things_for_all_is_for_admins(place: Place) -> None:
    secret = place.create("user")
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/api/chat", {"model": "tiny", "keep_alive": 0}),
        ("/api/chat", {"model": "tiny", "keep_alive": -1}),
        ("/api/generate", {"model": "tiny", "keep_alive": "1ms"}),
        ("/api/embed", {"model": "tiny", "input": "a", "keep_alive": "0s"}),
        ("/v1/chat/completions", CHAT | {"keep_alive": "forever", "stream": True}),
        ("/v1/chat/completions", CHAT | {"priority": 1}),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "keep_alive": "now"}),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "keep_alive": "forever"}),
        ("/v1/rerank", {"model": "tiny", "query": "a", "documents": ["b"], "keep_alive": 0}),
    ]
    for path, body in requests:
        answer = place.gateway.post(path, body, bearer(secret))
        assert answer.status == 403, path
        assert b"--endpoint admin" in answer.body
    assert place.chat(secret, keep_alive=300, priority=-1).status == 200
    admin = place.create("root", "--endpoint", "admin", "--endpoint", "chat")
    assert place.chat(admin, priority=1).status == 200
    unloaded = place.gateway.post("/api/chat", {"model": "tiny", "keep_alive": 0}, bearer(admin))
    assert unloaded.document["done_reason"] == "unload"


def test_a_revoked_or_expired_key_is_refused_within_a_moment(place: Place) -> None:
    secret = place.create("brief")
    assert place.models(secret).status == 200
    assert place.suite("keys", "revoke", "brief").returncode == 0
    eventually(lambda: place.code(place.models(secret)) == "invalid_api_key")
    again = place.create("brief", "--expires", "3s")
    eventually(lambda: place.code(place.models(again)) == "expired_api_key")
    assert place.models(again).status == 401
    assert place.code(place.models(secret)) == "invalid_api_key"


def test_a_revoked_key_ends_its_open_page_and_what_it_has_running(place: Place) -> None:
    headers = bearer(place.create("leaked", "--endpoint", "view", "--endpoint", "completions"))
    asked = {"model": "slow", "prompt": "a", "max_tokens": 4000, "stream": True}
    page, stream = place.gateway.connect(), place.gateway.connect()
    try:
        page.request("GET", "/ui/live", None, headers)
        stream.request("POST", "/v1/completions", json.dumps(asked), headers)
        told, answer = page.getresponse(), stream.getresponse()
        assert (told.status, answer.status) == (200, 200)
        assert b"text" in answer.readline(), "it generates"
        assert place.suite("keys", "revoke", "leaked").returncode == 0
        assert b'event: refused\ndata: {"code":"invalid_api_key"' in told.read()
        rest = answer.read()
        assert b"this key was revoked" in rest
        assert b"[DONE]" not in rest
    finally:
        page.close()
        stream.close()


def test_who_asks_too_often_is_told_when_to_come_back(place: Place) -> None:
    secret = place.create("often", "--requests-per-minute", "3")
    answers = [place.models(secret) for _ in range(4)]
    refused = answers[-1]
    assert (refused.status, place.code(refused)) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-tokens" not in refused.headers
    assert "x-ratelimit-limit-requests" not in place.models(place.secrets[0]).headers


def test_who_has_used_too_many_tokens_is_refused_and_each_use_is_in_the_log(place: Place) -> None:
    secret = place.create("much", "--tokens-per-minute", "4")
    answer = place.chat(secret)
    assert answer.status == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "4"
    eventually(lambda: place.code(place.chat(secret)) == "rate_limit_exceeded")
    assert place.models(secret).headers["x-ratelimit-remaining-tokens"] == "0"
    keys = {key["name"]: key["key_id"] for key in place.document("keys")["keys"]}
    eventually(
        lambda: (
            keys["much"]
            in {each["requester"] for each in place.document("usage", "--by", "requester")["usage"]}
        )
    )
    lines = place.suite("events", "--filter", "usage.generated", "--json").stdout.splitlines()
    assert keys["much"] in {json.loads(line)["data"].get("requester") for line in lines}


def test_pages_of_other_origins_may_ask_if_they_were_allowed(place: Place) -> None:
    page, host = "https://chat.example", {"Host": "localhost"}
    with gateway_of(
        place.data_dir, "--cors-origin", page, "--cors-origin", "http://localhost:3000"
    ) as gateway:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,x-stainless-os",
        }
        allowed = gateway.send("OPTIONS", "/v1/chat/completions", None, {"Origin": page, **asked, **host})
        assert allowed.status == 200
        assert allowed.headers["access-control-allow-origin"] == page
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-credentials" not in allowed.headers
        other = gateway.send(
            "OPTIONS", "/v1/chat/completions", None, {"Origin": f"{page}.evil", **asked, **host}
        )
        assert other.status == 400
        assert "access-control-allow-origin" not in other.headers
        answer = gateway.get("/v1/models", {"Origin": page})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, page)
        assert "x-ratelimit-remaining-tokens" in answer.headers["access-control-expose-headers"]
        refused = gateway.get("/v1/models", {"Origin": "https://evil.example"})
        assert (refused.status, place.code(refused)) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in refused.headers
        refused = gateway.get("/v1/models", {"Host": "evil.example"})
        assert (refused.status, place.code(refused)) == (403, "host_not_allowed")
        for body, (code, told) in {
            b'{"model": "tiny", "temperature": NaN}': ("invalid_json", "field 'temperature' is NaN"),
            b'{"model": "tiny",\n "messages": [}': ("invalid_json", "line 2, column 15"),
            b"": ("invalid_json", "it is empty"),
            b'{"model": "tiny", "messages": [{"content": "\\ud800"}]}': (
                "invalid_request",
                "field 'messages[0].content': half of a surrogate pair",
            ),
        }.items():
            broken = gateway.post("/v1/chat/completions", body)
            assert (broken.status, place.code(broken)) == (400, code)
            assert told in broken.error["message"]
        large = gateway.post("/v1/chat/completions", b"{" + b" " * 11_000_000)
        assert (large.status, place.code(large)) == (413, "too_large")


def test_a_key_is_for_what_an_alias_of_the_log_stands_for_at_the_moment(place: Place) -> None:
    secret = place.create("mover", "--model", "tiny")
    place.document("alias", "moving", "tiny")
    assert place.chat(secret, model="moving").status == 200
    (listed,) = [each for each in place.models(secret).document["data"] if each["id"] == "tiny"]
    assert "moving" in listed["aliases"]
    place.document("alias", "moving", "other")
    assert place.code(place.chat(secret, model="moving")) == "key_not_permitted"
    place.document("alias", "moving", "--remove")
