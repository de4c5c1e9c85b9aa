"""Where Prometheus finds processes of this node whose ports are not known beforehand."""

from collections.abc import Iterable

from aiohttp import web

from region.retrieval.process import RetrievalProcess


def metrics_targets(region: str, retrievals: Iterable[RetrievalProcess]) -> web.RouteDef:
    """`/metrics/targets`: processes of this node whose ports are not known beforehand, for Prometheus (`http_sd`)."""

    async def targets(_request: web.Request) -> web.Response:
        found = [
            {"targets": [process.metrics_address],
             "labels": {"process": "retrieval", "region": region, "release": process.release}}
            for process in retrievals if process.metrics_address
        ]  # fmt: skip
        return web.json_response(found)

    return web.get("/metrics/targets", targets)
