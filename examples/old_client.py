"""A client of the older services, as it always was: a ZeroMQ REQ socket, one JSON object there and one back.

    SUITE_ENABLE_BACKWARD_COMPATIBILITY=true suite serve --models-dir ~/models &
    python examples/old_client.py [HOST [PORT [HEALTH_PORT]]]

It needs pyzmq, and so does the service (extra `[zmq]`); `enable_backward_compatibility = true` in the
configuration file does the same as the variable. Left out: 127.0.0.1, 7011 and 7111.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import zmq


def main(host: str = "127.0.0.1", port: str = "7011", health_port: str = "7111") -> None:
    context = zmq.Context()
    context.linger = 0

    def ask(request: dict[str, Any], to: str = port) -> dict[str, Any]:
        with context.socket(zmq.REQ) as socket:
            socket.setsockopt(zmq.RCVTIMEO, 60_000)
            socket.connect(f"tcp://{host}:{to}")
            socket.send_string(json.dumps(request))
            reply: dict[str, Any] = json.loads(socket.recv())
        if reply["status"] == "error":
            sys.exit(f"{request['action']} failed: {reply['message']}")
        return reply

    health = ask({"action": "health_check"}, to=health_port)
    print(f"{health['agent']} is {health['status']}, {health['models_tracked']} models")

    models = ask({"action": "list_models"})["models"]
    model_id = models[0]["model_id"]
    print(f"{model_id}: context {models[0]['n_ctx']}, loaded {models[0]['loaded']}")

    # Arguments came beside the action, in "data", or in "params": all of them work.
    print(ask({"action": "load_model", "data": {"model_id": model_id}})["message"])
    answer = ask(
        {
            "action": "generate_text",
            "model_id": model_id,
            "prompt": "Once upon a time",
            "conversation_id": "old-client-example",
            "params": {"max_tokens": 24, "temperature": 0.2},
        }
    )
    print(f"{answer['model_id']} wrote: {answer['text']!r}")

    metric = {"agent_name": "old-client-example", "metric_name": "answers", "value": 1}
    print(ask({"action": "log_performance_metric", "metric": metric})["message"])
    print(ask({"action": "unload_model", "model_id": model_id})["message"])


if __name__ == "__main__":
    main(*sys.argv[1:])
