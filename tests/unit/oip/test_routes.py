import pytest

from oip.routes import Endpoint, Route, route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/v2", Route(Endpoint.SERVER)),
        (b"/v2/", Route(Endpoint.SERVER)),
        (b"/v2/health/live", Route(Endpoint.LIVE)),
        (b"/v2/health/ready/", Route(Endpoint.READY)),
        (b"/v2/openapi.json", Route(Endpoint.OPENAPI)),
        (b"/v2/models/m", Route(Endpoint.MODEL, "m")),
        (b"/v2/models/m/", Route(Endpoint.MODEL, "m")),
        (b"/v2/models/m/ready", Route(Endpoint.MODEL_READY, "m")),
        (b"/v2/models/m/infer", Route(Endpoint.INFER, "m")),
        (b"/v2/models/m/versions/12", Route(Endpoint.MODEL, "m", "12")),
        (b"/v2/models/m/versions/12/ready", Route(Endpoint.MODEL_READY, "m", "12")),
        (b"/v2/models/m/versions/12/infer/", Route(Endpoint.INFER, "m", "12")),
        (b"/v2/models/a%2Fb%20c/infer", Route(Endpoint.INFER, "a/b c")),
        (b"/v2/models/%C3%9F", Route(Endpoint.MODEL, "ß")),
        (b"/%762/%6dodels/%6d/%69nfer", Route(Endpoint.INFER, "m")),
        (b"/v%32/repository/%69ndex", Route(Endpoint.REPOSITORY_INDEX)),
        (b"/v2%2Frepository/index", Route(Endpoint.UNKNOWN)),
        (b"/v2%2frepository%2Fmodels%2Fm%2Funload", Route(Endpoint.UNKNOWN)),
        (b"/%2Fv2/health/live", Route(Endpoint.UNKNOWN)),
        (b"/v2/models/100%2525", Route(Endpoint.MODEL, "100%25")),
        (b"/v2/models/%FF", Route(Endpoint.MODEL, "\ufffd")),
        (b"/v2/models/versions/versions/1", Route(Endpoint.MODEL, "versions", "1")),
        (b"/v2/models", Route(Endpoint.UNKNOWN)),
        (b"/v2/models//infer", Route(Endpoint.UNKNOWN)),
        (b"/v2/models/m/versions", Route(Endpoint.UNKNOWN)),
        (b"/v2/models/m/versions//infer", Route(Endpoint.UNKNOWN)),
        (b"/v2/models/m/generate", Route(Endpoint.UNKNOWN)),
        (b"/v2/health", Route(Endpoint.UNKNOWN)),
        (b"/v2/models/m/stats", Route(Endpoint.STATISTICS, "m")),
        (b"/v2/models/m/versions/2/stats", Route(Endpoint.STATISTICS, "m", "2")),
        (b"/v2/models/stats", Route(Endpoint.STATISTICS)),
        (b"/v2/models/stats/versions/1", Route(Endpoint.MODEL, "stats", "1")),
        (b"/v2/repository/index", Route(Endpoint.REPOSITORY_INDEX)),
        (b"/v2/repository/models/m/load", Route(Endpoint.REPOSITORY_LOAD, "m")),
        (b"/v2/repository/models/a%2Fb/unload/", Route(Endpoint.REPOSITORY_UNLOAD, "a/b")),
        (b"/v2/repository/models//load", Route(Endpoint.UNKNOWN)),
        (b"/v2/repository/models/m/config", Route(Endpoint.UNKNOWN)),
        (b"/v2/repository/models", Route(Endpoint.UNKNOWN)),
        (b"/v2/repository", Route(Endpoint.UNKNOWN)),
        (b"/v2x", Route(Endpoint.FOREIGN)),
        (b"/v1/models/m:predict", Route(Endpoint.FOREIGN)),
        (b"/", Route(Endpoint.FOREIGN)),
        (b"", Route(Endpoint.FOREIGN)),
    ],
)
def test_paths(path: bytes, route: Route) -> None:
    """Every path of the protocol, with and without version and trailing slash, and its neighbours that are none."""
    assert route_of(path) == route
