"""What `wrk` is for HTTP: inference requests over gRPC in closed loops, from a process of its own.

`python grpc_load.py PORT CONNECTIONS SECONDS`. Each loop has a connection to itself. The request is made once and sent
as it is, and answers are not read beyond their status: what is measured is the server. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import sys
import time

import grpc  # type: ignore[import-untyped]  # ships no types
import numpy as np
import orjson
import uvloop
from tritonclient.grpc import service_pb2

SHAPE = (1, 7, 32, 128)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 20.0
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def main() -> None:
    """Drive and print."""
    port, connections, seconds = map(int, sys.argv[1:])
    latencies_s, failed = uvloop.run(_drive(f"127.0.0.1:{port}", connections, seconds))
    p50_s, p99_s = np.percentile(latencies_s, (50, 99)).tolist() if latencies_s else (0.0, 0.0)
    told = {"requests": len(latencies_s), "failed": failed, "p50_ms": p50_s * 1e3, "p99_ms": p99_s * 1e3}
    print(orjson.dumps(told | {"requests_per_s": len(latencies_s) / seconds}).decode())


async def _drive(address: str, connections: int, seconds: float) -> tuple[list[float], int]:
    """The time of every request that was answered, and how many were not."""
    request = _request()
    latencies_s: list[float] = []

    async def loop() -> int:
        failed = 0
        async with grpc.aio.insecure_channel(address, _OWN_CONNECTION) as channel:
            infer = channel.unary_unary(METHOD)  # without serialisers: bytes in, bytes out
            while (began_s := time.perf_counter()) < until_s:
                try:
                    await infer(request, timeout=TIMEOUT_S)
                    latencies_s.append(time.perf_counter() - began_s)
                except grpc.aio.AioRpcError:
                    failed += 1
        return failed

    until_s = time.perf_counter() + seconds
    return latencies_s, sum(await asyncio.gather(*(loop() for _ in range(connections))))


def _request() -> bytes:
    array = np.random.default_rng(7).normal(size=SHAPE).astype(np.float32)
    message = service_pb2.ModelInferRequest(model_name="localization", raw_input_contents=[array.tobytes()])
    message.inputs.add(name="log_mel", datatype="FP32", shape=SHAPE)
    return bytes(message.SerializeToString())


main()
