"""Clients that people have: boto3's Amazon Personalize clients and PyGorse, as they are, against an edge."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import botocore.auth
import msgspec
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from gorse import AsyncGorse, Gorse, GorseException

from edge.compatibility.desk import event_id, list_type
from edge.compatibility.signatures import parse_authorization
from infra.contracts.events import EventBatch
from infra.contracts.messages import HomeRequest, RecommendationType
from infra.plumbing.errors import InvalidInputError, UnauthorizedError
from infra.plumbing.service_keys import Scope
from tests.unit.edge.conftest import World
from tests.unit.edge.test_api import has_lists

ARN = "arn:aws:personalize:eu-west-1:000000000000"


class Aws:
    """The real clients, in a thread: they block."""

    def __init__(self, world: World, base: str, *scopes: Scope) -> None:
        key_id, _, secret = world.service(*scopes, name="aws")["Atoll-Key"].partition(".")
        self.base, self.key_id, self.secret = base, key_id, secret

    async def __call__(self, service: str, operation: str, **fields: Any) -> dict[str, Any]:
        client = boto3.client(
            service, endpoint_url=f"{self.base}/personalize", region_name="eu-west-1", aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret, config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        try:
            answer: dict[str, Any] = await asyncio.to_thread(getattr(client, operation), **fields)
        finally:
            client.close()
        return answer

    async def refused(self, service: str, operation: str, **fields: Any) -> str:
        with pytest.raises(ClientError) as caught:
            await self(service, operation, **fields)
        return str(caught.value.response["Error"]["Code"])


RUNTIME, EVENTS = "personalize-runtime", "personalize-events"


async def aws(world: World, *scopes: Scope) -> Aws:
    made = Aws(world, "", *scopes)
    client = await world.edge()
    made.base = str(client.make_url("")).rstrip("/")
    await has_lists(world, client)
    return made


def home_requests(world: World) -> list[HomeRequest]:
    return [msgspec.json.decode(call, type=HomeRequest) for call in world.home.calls("/v1/recommend")]


async def test_recommendations_by_the_aws_client(world: World) -> None:
    call = await aws(world, Scope.READ)
    answer = await call(
        RUNTIME, "get_recommendations", campaignArn=f"{ARN}:campaign/mine", userId="alice", numResults=5
    )
    assert [item["itemId"] for item in answer["itemList"]] == [f"p-{number}" for number in range(5)]
    assert answer["itemList"][0]["score"] > answer["itemList"][1]["score"]
    assert answer["recommendationId"] == answer["ResponseMetadata"]["RequestId"]
    assert home_requests(world)[0].subject == world.subject("alice")
    similar = await call(RUNTIME, "get_recommendations", campaignArn=f"{ARN}:campaign/mine", itemId="r-3")
    assert len(similar["itemList"]) == 25
    assert home_requests(world)[1].item == "r-3"
    trending = await call(RUNTIME, "get_recommendations", recommenderArn=f"{ARN}:recommender/shop-trending")
    assert trending["itemList"][0]["itemId"] == "trending-0"
    filtered = await call(
        RUNTIME, "get_recommendations", recommenderArn=f"{ARN}:recommender/popular", userId="alice", numResults=500,
        filterArn=f"{ARN}:filter/f", filterValues={"CATEGORY": '"drama"', "COLOUR": '"red","blue"'},
        context={"DEVICE": "TV", "country": "pt", "mood": "?"},
    )  # fmt: skip
    assert len(filtered["itemList"]) == 100
    sent = home_requests(world)[-1]
    assert (sent.category, sent.context.device, sent.context.country) == ("drama", "tv", "PT")
    assert [(one.name, one.values) for one in sent.filters.attributes] == [("colour", ("red", "blue"))]


async def test_ranking_by_the_aws_client(world: World) -> None:
    call = await aws(world, Scope.READ)
    world.home.items = 3  # The fake ranks p-0, p-1, p-2 for a subject.
    fields = {"campaignArn": f"{ARN}:campaign/r", "userId": "alice", "inputList": ["x", "p-2", "y", "p-0", "x"]}
    ranked = (await call(RUNTIME, "get_personalized_ranking", **fields))["personalizedRanking"]
    assert [item["itemId"] for item in ranked] == ["p-0", "p-2", "x", "y"]
    assert home_requests(world)[-1].among == ("x", "p-2", "y", "p-0")
    world.kill("home", "replica", "near", "far")
    ranked = (await call(RUNTIME, "get_personalized_ranking", **fields))["personalizedRanking"]
    assert [item["itemId"] for item in ranked] == ["x", "p-2", "y", "p-0"]
    assert (await call(RUNTIME, "get_recommendations", campaignArn=f"{ARN}:c/x", userId="alice"))["itemList"]


async def test_events_by_the_aws_client(world: World) -> None:
    call = await aws(world, Scope.EVENTS)
    now = datetime.now(UTC)
    event = {"eventType": "Add-To-Cart", "itemId": "i1", "sentAt": now, "eventId": "event-0001", "impression": ["i2"]}
    fields = {"trackingId": "t", "sessionId": "s 1", "eventList": [event, {**event, "eventId": "x"}]}
    await call(EVENTS, "put_events", userId="alice", **fields)
    await call(EVENTS, "put_events", **fields)
    first, second = (msgspec.json.decode(body, type=EventBatch) for body in world.home.calls("/v1/events"))
    assert first.subject == world.subject("alice")
    assert second.subject == world.keys["here"].session_subject("s 1")
    assert [(one.type, one.item) for one in first.events] == [("cart", "i1"), ("impression", "i2")] * 2
    assert first.events[0].event_id == "event-0001"
    assert abs(first.events[0].at_ms - now.timestamp() * 1000) < 1001
    assert len({one.event_id for one in first.events}) == 3  # Both impressions are one.
    assert await call.refused(RUNTIME, "get_recommendations", campaignArn=f"{ARN}:c/x", userId="a") == (
        "AccessDeniedException"
    )
    assert await call.refused(EVENTS, "put_items", datasetArn=f"{ARN}:dataset/d/ITEMS", items=[{"itemId": "i"}]) == (
        "ResourceNotFoundException"
    )


async def test_signatures_that_do_not_hold_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    call = await aws(world, Scope.READ)
    fields = {"campaignArn": f"{ARN}:campaign/x", "userId": "alice"}
    assert (await call(RUNTIME, "get_recommendations", **fields))["itemList"]
    good = call.secret
    call.secret = good + "x"
    assert await call.refused(RUNTIME, "get_recommendations", **fields) == "InvalidSignatureException"
    call.secret, call.key_id = good, "ATOLLNOBODY"
    assert await call.refused(RUNTIME, "get_recommendations", **fields) == "InvalidSignatureException"


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_signatures_of_another_time_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    call = await aws(world, Scope.READ)
    real = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *words: real(*words) + timedelta(minutes=minutes))
    code = await call.refused(RUNTIME, "get_recommendations", campaignArn=f"{ARN}:campaign/x", userId="alice")
    assert code == "InvalidSignatureException"


async def test_a_signed_request_that_was_changed_is_refused(world: World) -> None:
    call = await aws(world, Scope.READ)
    body = json.dumps({"userId": "alice"}).encode()
    request = botocore.awsrequest.AWSRequest(
        "POST", f"{call.base}/personalize/recommendations", data=body, headers={"Content-Type": "application/json"}
    )
    keys = botocore.credentials.Credentials(call.key_id, call.secret)
    botocore.auth.SigV4Auth(keys, "personalize", "eu-west-1").add_auth(request)
    headers, client = dict(request.headers), world.clients[0]
    path = "/personalize/recommendations"
    for sent, status in ((body, 200), (body, 200), (body + b" ", 403)):  # Sent again it holds: it reads, no more.
        assert (await client.post(path, data=sent, headers=headers)).status == status
    assert (await client.post(path + "?a=b", data=body, headers=headers)).status == 403
    other = await client.post("/personalize/personalize-ranking", data=body, headers=headers)
    assert other.status == 403
    assert (await other.json())["__type"] == other.headers["x-amzn-ErrorType"] == "InvalidSignatureException"


@pytest.mark.parametrize(
    "text",
    [
        None, "", "Bearer x", "AWS4-HMAC-SHA256 Credential=A/20240101/x/s3/aws4_request, SignedHeaders=host;x-amz-date,"
        " Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=A/20240101/x/personalize/aws4_request, SignedHeaders=host, Signature=" + "0" * 64,
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused(text: str | None) -> None:
    with pytest.raises(UnauthorizedError):
        parse_authorization(text)


async def gorse(world: World, *scopes: Scope) -> Gorse:
    key = world.service(*scopes, name="gorse")["Atoll-Key"]
    client = await world.edge()
    await has_lists(world, client)
    return Gorse(str(client.make_url("/gorse")), key)


async def test_lists_by_the_gorse_client(world: World) -> None:
    client = await gorse(world, Scope.READ)

    def both() -> tuple[list[Any], list[Any]]:
        return client.get_recommend("alice", n=3), client.get_recommend("alice", category="drama", n=2, offset=3)

    first, second = await asyncio.to_thread(both)
    assert [score.id for score in first] == ["p-0", "p-1", "p-2"]
    assert [score.id for score in second] == ["p-3", "p-4"]
    assert first[0].score > first[1].score
    assert [request.category for request in home_requests(world)] == [None, "drama"]
    assert home_requests(world)[0].subject == world.subject("alice")
    near = await asyncio.to_thread(client.get_neighbors, "r-3", 4)
    assert len(near) == 4
    session = await asyncio.to_thread(
        client.session_recommend,
        [{"FeedbackType": "like", "ItemId": item, "Timestamp": f"2026-01-0{at}"} for item, at in (("b", 2), ("a", 1))],
        5,
    )
    assert len(session) == 5
    assert home_requests(world)[-1].recent == ("a", "b")
    with pytest.raises(GorseException) as caught:
        await asyncio.to_thread(client.insert_item, {"ItemId": "i"})
    assert caught.value.status_code == 404
    with pytest.raises(GorseException) as caught:
        await asyncio.to_thread(client.insert_feedback, "like", "alice", "i", "2026-01-01")
    assert caught.value.status_code == 403
    asynchronous = AsyncGorse(client.entry_point, client.api_key)
    assert [score.id for score in await asynchronous.get_recommend("alice", n=2)] == ["p-0", "p-1"]
    with pytest.raises(GorseException) as caught:
        await AsyncGorse(client.entry_point, "wrong").get_recommend("alice")
    assert caught.value.status_code == 401


async def test_feedback_by_the_gorse_client(world: World) -> None:
    client = await gorse(world, Scope.EVENTS)
    moment = datetime.now(UTC).isoformat()
    await asyncio.to_thread(client.insert_feedback, "star", "alice", "i1", moment)
    again = [
        {"FeedbackType": "star", "UserId": "alice", "ItemId": "i1", "Timestamp": moment},
        {"FeedbackType": "read", "UserId": "bob", "ItemId": "i2", "Timestamp": ""},
    ]
    assert (await asyncio.to_thread(client.insert_feedbacks, again))["RowAffected"] == 2
    batches = [msgspec.json.decode(body, type=EventBatch) for body in world.home.calls("/v1/events")]
    assert [batch.subject for batch in batches] == [world.subject(user) for user in ("alice", "alice", "bob")]
    assert batches[0].events == batches[1].events  # The same id: it counts once.
    assert [batch.events[0].type for batch in batches] == ["like", "like", "view"]
    with pytest.raises(GorseException) as caught:
        await asyncio.to_thread(client.insert_feedback, "star", "alice", "i1", "yesterday")
    assert caught.value.status_code == 400


def test_names_of_campaigns_say_what_they_are() -> None:
    assert list_type("x", item=None, named=True) is RecommendationType.PERSONAL
    assert list_type("x", item=None, named=False) is RecommendationType.POPULAR
    assert list_type("x", item="i", named=True) is RecommendationType.SIMILAR
    assert list_type("my-shop-trending", item=None, named=True) is RecommendationType.TRENDING
    with pytest.raises(InvalidInputError):
        list_type("similar", item=None, named=True)
    assert event_id("good-id-1", 1) == "good-id-1"
    assert event_id("bad id", 1) == event_id("bad id", 1) != event_id("bad id", 2)
